//! Our own parameters.

use crate::check::finding::Finding;
use crate::check::look::Seen;
use crate::check::look::postfix::FORMER_PARAMETERS;

/// The `pec_` parameters, and what they must be to Postfix's.
pub(crate) fn parameters(seen: &Seen) -> Vec<Finding> {
    // What is left of an earlier design is named with all that is.
    let is_left =
        |error: &&String| error.split(':').next().is_some_and(|name| FORMER_PARAMETERS.contains(&name));
    seen.ours
        .as_ref()
        .err()
        .filter(|error| !is_left(error))
        .map(|error| Finding::of_error(error))
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::sample::found;

    #[test]
    fn where_all_is_well_nothing_is_found() {
        assert_eq!(found(parameters, |_| {}), Vec::<String>::new());
    }

    #[test]
    fn an_error_of_the_programs_themselves_is_repeated() {
        let error = "pec_infected_store = x: not allowed; it must be an absolute path";
        assert_eq!(found(parameters, |seen| seen.ours = Err(error.into())), [format!("wrong: {error}")]);
        let left = FORMER_PARAMETERS[0];
        assert!(
            found(parameters, |seen| seen.ours = Err(format!("{left}: unknown parameter; see"))).is_empty()
        );
    }
}
