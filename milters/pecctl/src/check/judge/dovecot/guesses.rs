//! Does Dovecot bound the guesses at passwords that it checks for one address?
//!
//! Promise: what dovecot-conf/guesses.lua needs to count each check, of every passdb, is named where it is
//! missing.

use crate::check::finding::Finding;
use crate::check::look::dovecot::{Dovecot, Setting, driver_of, in_block};

/// Asked before the passdbs that check passwords, and after them.
const BEFORE: &str = "guesses.lua";
const AFTER: &str = "guesses-right.lua";

const WHY: &str = "ten guesses a minute are checked for an address, at all doors together";
const MEND: &str = "take the passdb blocks over from dovecot-conf";

pub(crate) fn guesses(dovecot: &Dovecot) -> Vec<Finding> {
    let blocks = dovecot.blocks("passdb");
    let mut out = Vec::new();
    let mut wrong = |what: &str, value: &str, allowed: &str, mend: &str| {
        out.push(Finding::wrong(format!("Dovecot: {what}"), value, format!("{allowed}: {WHY}"), mend));
    };
    if !blocks.first().is_some_and(|block| runs(block, BEFORE)) {
        let first = blocks.first().map_or("missing", |block| driver_of(block));
        wrong("the first passdb", first, "lua with guesses.lua, in the auth process itself", MEND);
    }
    if !blocks.last().is_some_and(|block| runs(block, AFTER)) {
        let last = blocks.last().map_or("missing", |block| driver_of(block));
        wrong("the last passdb", last, "lua with guesses-right.lua, in the auth process itself", MEND);
    }
    // One that denies lets nobody in.
    for block in blocks.iter().filter(|block| in_block(block, "deny") != Some("yes")) {
        let (name, must) = match () {
            () if runs(block, BEFORE) => ("result_internalfail", "return"),
            () if runs(block, AFTER) => ("skip", "unauthenticated"),
            () => ("result_success", "continue-ok"),
        };
        let value = in_block(block, name).unwrap_or_default();
        if value != must {
            let outermost = block.first().and_then(|s| s.path.split('/').next()).unwrap_or("passdb");
            let what = format!("{name} of {outermost} ({})", driver_of(block));
            wrong(&what, value, must, &format!("{name} = {must} in this block"));
        }
    }
    let penalty = dovecot.written("service anvil/unix_listener anvil-auth-penalty/mode");
    if !penalty.is_some_and(|mode| mode.bytes().all(|b| b == b'0')) {
        let allowed = "0, which turns Dovecot's penalty off: it keeps others behind an address out for as \
            long as somebody guesses";
        out.push(Finding::wrong(
            "Dovecot: mode of anvil-auth-penalty",
            penalty.unwrap_or("not set"),
            allowed,
            "take service anvil over from dovecot-conf",
        ));
    }
    out
}

/// Whether this `passdb` knows no user, and counts guesses.
pub(crate) fn counts(block: &[&Setting]) -> bool {
    runs(block, BEFORE) || runs(block, AFTER)
}

/// 2.3: words of `args`; 2.4: settings of their own. In a worker each process would count for itself.
fn runs(block: &[&Setting], script: &str) -> bool {
    let ends = |path: &str| path.rsplit('/').next() == Some(script);
    let of_23 = in_block(block, "args").is_some_and(|args| {
        args.split_whitespace().any(|word| word.strip_prefix("file=").is_some_and(ends))
            && args.split_whitespace().any(|word| word == "blocking=no")
    });
    let of_24 = in_block(block, "lua_file").is_some_and(ends) && in_block(block, "use_worker") == Some("no");
    driver_of(block) == "lua" && (of_23 || of_24)
}

#[cfg(test)]
mod tests {
    use crate::check::judge::dovecot::tests::found;
    use crate::check::sample::{changed, put};

    #[test]
    fn what_counts_guesses_is_missed() {
        for (version, from, to, says) in [
            (
                "2.3",
                "guesses.lua blocking=no",
                "guesses.lua",
                "the first passdb = lua: it must be lua with guesses.lua, in",
            ),
            (
                "2.4",
                "use_worker = no",
                "use_worker = yes",
                "the first passdb = lua: it must be lua with guesses.lua, in",
            ),
            (
                "2.4",
                "guesses-right.lua",
                "other.lua",
                "the last passdb = lua: it must be lua with guesses-right.lua",
            ),
            (
                "2.3",
                "  result_internalfail = return\n",
                "",
                "result_internalfail of passdb (lua) is empty: it must be return",
            ),
            (
                "2.4",
                "  result_success = continue-ok\n",
                "",
                "result_success of passdb passwd-file (passwd-file) is empty",
            ),
            (
                "2.3",
                "skip = unauthenticated",
                "skip = never",
                "skip of passdb (lua) = never: it must be unauthenticated",
            ),
            (
                "2.4",
                "unix_listener anvil-auth-penalty {\n    mode = 0",
                "unix_listener x {\n    mode = 0",
                "mode of anvil-auth-penalty",
            ),
        ] {
            let found = found(changed(version, |_, _, text| put(text, from, to)));
            assert!(found.iter().any(|line| line.contains(says)), "{says}: {found:?}");
        }
        let without = found(changed("2.3", |_, _, text| {
            *text = "passdb {\n  driver = passwd-file\n  args = /etc/dovecot/users\n}\n".to_owned();
        }));
        assert!(
            without.iter().any(|line| line.contains("the first passdb = passwd-file: it must be lua")),
            "{without:?}"
        );
    }

    #[test]
    fn a_list_of_who_is_denied_may_stand_between() {
        let denied = "passdb {\n  args = /etc/dovecot/deny\n  deny = yes\n  driver = passwd-file\n}\n";
        let between = "passdb {\n  driver = passwd-file";
        let found = found(changed("2.3", |_, _, text| put(text, between, &format!("{denied}{between}"))));
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn a_cache_that_answers_in_its_place_is_named() {
        let found = found(changed("2.4", |lmtp, _, _| lmtp.push_str("auth_cache_size = 10M\n")));
        assert!(found.len() == 1 && found[0].contains("auth_cache_size = 10M: it must be 0"), "{found:?}");
    }
}
