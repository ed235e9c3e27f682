-- Whatever Rspamd would do with a message (refuse, delay, rewrite its subject), it marks it and does nothing else: it cannot know
-- which message is certified mail, of which nothing may be lost. pec-incoming reads the mark and takes it off.
local MARK = 'X-Pec-Spam'
local HARMLESS = { ['no action'] = true, ['greylist'] = true, ['soft reject'] = true }

rspamd_config:register_symbol({
  name = 'PEC_MARKS_ONLY',
  type = 'idempotent',
  priority = 10,
  flags = 'ignore_passthrough',
  callback = function(task)
    local reply = { no_action = true }
    if not HARMLESS[task:get_metric_action()] then
      reply.add_headers = { [MARK] = 'Yes' }
    end
    task:set_milter_reply(reply)
  end,
})
