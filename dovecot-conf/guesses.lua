-- For Dovecot 2.3 and 2.4: how many guesses at passwords are checked for one address, at all doors together: IMAP, POP3, and
-- submission, for which Postfix asks Dovecot.
--
-- Promise: within any 60 seconds at most ten wrong passwords are checked for an address, however many are tried at once. A check
-- counts from its beginning until guesses-right.lua says that the password was right; so who is right takes nothing from anybody.
-- What is not checked is a temporary failure, right or wrong, and a line that fail2ban's filter reads. Without an address
-- (doveadm) nothing is counted.
--
-- Behind one address (NAT) are others, who shall not wait for long: one account has six of the ten, and accounts that nobody has
-- opened from there within a day have eight together.
--
-- What is known stands in a file, since Dovecot 2.4 runs this script several times in one process, in worlds of their own: for
-- each protocol that has settings of its own. Each reads what the others have added, and then decides; nothing happens in between,
-- as long as it runs in the auth process itself, which does one thing after the other (2.3: blocking=no, 2.4: use_worker = no).

-- Of user dovecot, made by the administrator. A line is one of
--     begun WHEN-AND-BY-WHOM                            the first one
--     check SECOND ADDRESS STRANGER SESSION ACCOUNT     STRANGER: whether nobody had opened the account from there, 1 or 0
--     right SECOND ADDRESS ACCOUNT                      by guesses-right.lua
local FILE = "/var/lib/dovecot/pec-guesses"
local MINUTE, DAY = 60, 86400
local ALL, OF_ONE_ACCOUNT, OF_STRANGERS = 10, 6, 8
-- By how much the file grows before it is begun again with what still counts.
local BYTES = 65536

local file, added
local begun, read, small = "", 0, 0
local checks = {} -- address -> list of { at = second, account, stranger, session }, the oldest first
local opened = {} -- address -> { account = second at which its password was right last }

-- Whoever has an IPv6 address has 2^64 of them.
local function counted_as(address)
  local mapped = address:match("^::[fF]+:(%d+%.%d+%.%d+%.%d+)$")
  if mapped or not address:find(":", 1, true) then return mapped or address end
  local head, tail = address:match("^(.-)::(.*)$")
  local groups, behind = {}, {}
  for group in (head or address):gmatch("[^:]+") do groups[#groups + 1] = group end
  for group in (tail or ""):gmatch("[^:]+") do behind[#behind + 1] = group end
  while #groups + #behind < 8 do groups[#groups + 1] = "0" end
  for _, group in ipairs(behind) do groups[#groups + 1] = group end
  return table.concat(groups, ":", 1, 4)
end

local function take_up(line)
  local at, address, stranger, session, account = line:match("^check (%d+) (%S+) ([01]) (%S+) (.+)$")
  if at then
    address = counted_as(address)
    local list = checks[address] or {}
    checks[address] = list
    list[#list + 1] = { at = tonumber(at), account = account, stranger = stranger == "1", session = session }
    return
  end
  at, address, account = line:match("^right (%d+) (%S+) (.+)$")
  if not at then return end
  address = counted_as(address)
  opened[address] = opened[address] or {}
  opened[address][account] = tonumber(at)
  local list = checks[address] or {}
  for i = #list, 1, -1 do
    if list[i].account == account then
      table.remove(list, i)
      return
    end
  end
end

-- Reads what was added.
local function hear()
  file:seek("set", 0)
  local first = file:read("l") or ""
  if first ~= begun then
    begun, read, checks, opened = first, file:seek(), {}, {}
    small = 0
  end
  file:seek("set", read)
  for line in file:lines() do take_up(line) end
  read = file:seek()
  if small == 0 then small = read end
end

-- Forgets what is over. A clock that was set back forgets what seems to come.
local function forget(now)
  for address, list in pairs(checks) do
    local kept = {}
    for _, check in ipairs(list) do
      if now - check.at <= MINUTE and check.at <= now then kept[#kept + 1] = check end
    end
    checks[address] = kept[1] and kept
  end
  for address, accounts in pairs(opened) do
    for account, at in pairs(accounts) do
      if now - at > DAY then accounts[account] = nil end
    end
    if next(accounts) == nil then opened[address] = nil end
  end
end

local function check_line(address, check)
  return ("check %d %s %d %s %s\n"):format(check.at, address, check.stranger and 1 or 0, check.session, check.account)
end

-- Begins the file again with what counts. The others see by its first line that they must read it from there.
local function begin_again(now)
  forget(now)
  local new, why = io.open(FILE, "w")
  if not new then return dovecot.i_error(why .. ": it must belong to user dovecot") end
  new:write(("begun %d %s\n"):format(now, tostring(new):match("0x%x+") or "?"))
  for address, accounts in pairs(opened) do
    -- In the file an address is whole; what it is counted as stays what it is.
    if address:find(":", 1, true) then address = address .. "::" end
    for account, at in pairs(accounts) do new:write(("right %d %s %s\n"):format(at, address, account)) end
  end
  for address, list in pairs(checks) do
    if address:find(":", 1, true) then address = address .. "::" end
    for _, check in ipairs(list) do new:write(check_line(address, check)) end
  end
  new:close()
  hear()
end

function script_init()
  -- Not one that this makes: in 2.4 it would be root's.
  file = assert(io.open(FILE, "r+"))
  added = assert(io.open(FILE, "a"))
  return 0
end

function auth_password_verify(request, _)
  local from = request.remote_ip
  if from == nil or from == "" then return dovecot.auth.PASSDB_RESULT_NEXT, "" end
  local now, address = os.time(), counted_as(from)
  local account = ((request.user or "?"):gsub("%c", "?"))
  local door, session = request.protocol or request.service or "?", request.session or "-"
  hear()
  -- An administrator may have emptied it, so that nothing counts any more.
  if not begun:find("^begun ") or read > small + BYTES then begin_again(now) end

  local stranger = now - (opened[address] and opened[address][account] or -DAY) > DAY
  local all, of_account, of_strangers, again = 0, 0, 0, false
  for _, check in ipairs(checks[address] or {}) do
    if now - check.at <= MINUTE and check.at <= now then
      all = all + 1
      if check.account == account then of_account = of_account + 1 end
      if check.stranger then of_strangers = of_strangers + 1 end
      again = again or (session ~= "-" and check.session == session)
    end
  end
  if all >= ALL or of_account >= OF_ONE_ACCOUNT or (stranger and of_strangers >= OF_STRANGERS) then
    local says = "not checked: %s from %s: too many wrong passwords from there within a minute"
    return dovecot.auth.PASSDB_RESULT_INTERNAL_FAILURE, says:format(door, from)
  end
  -- Dovecot says of a connection once that passwords were wrong, at its end.
  if again then request:log_info(("wrong before: %s from %s: another password in one connection"):format(door, from)) end
  assert(added:write(check_line(from, { at = now, account = account, stranger = stranger, session = session })))
  assert(added:flush())
  return dovecot.auth.PASSDB_RESULT_NEXT, ""
end
