//! What a command says in one text, as an error of three parts.

use sooner_api::{Code, Error};

/// What stands between why something failed and what to do.
const TO_DO: &str = ". To do: ";

/// An error of a command: as it was made, or with the parts of its text.
pub fn operator_error(error: anyhow::Error, code: Code, what: &str) -> Error {
    let text = match error.downcast::<Error>() {
        Ok(error) => return error,
        Err(other) => format!("{other:#}"),
    };
    let (why, remedy) = text.split_once(TO_DO).unwrap_or((&text, "see the log of the process"));
    Error::operator(code, what, why, remedy.trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use sooner_api::Class;

    use super::*;

    #[test]
    fn what_a_command_says_has_its_parts_again() {
        let said = anyhow::anyhow!("there is no table 'a'. To do: see `sooner status`");
        let error = operator_error(said, Code::CutImpossible, "cannot make the cut");
        assert_eq!((error.why.as_str(), error.remedy.as_str()), ("there is no table 'a'", "see `sooner status`"));
        let unreachable = Error::retry(Code::LakeUnreachable, "cannot read", "timeout", "nothing");
        let error = operator_error(unreachable.into(), Code::CutImpossible, "cannot make the cut");
        assert_eq!((error.class, error.code), (Class::Retry, Code::LakeUnreachable));
        assert_eq!(operator_error(anyhow::anyhow!("odd"), Code::Held, "x").remedy, "see the log of the process");
    }
}
