//! Errors of a store, classified: what passes by itself, and what needs a person.

use std::fmt::Display;

use sooner_api::{Code, Error};

/// Classifies an error of a store. An error of the whole store is to be retried, because the store was usable at the
/// start; a missing or shortened object needs an operator; any other error is to be retried.
pub fn store_error(what: impl Into<String>, error: &object_store::Error) -> Error {
    let why = root_cause(error);
    if let Some((code, remedy)) = store_remedy(error, &why) {
        return Error::retry(code, what, why, remedy);
    }
    let cut_short = ["range was invalid", "InvalidRange", "range starting at"].iter().any(|sign| why.contains(sign));
    if cut_short {
        let remedy = "the file is shorter than it was: restore it, or copy the table again with `sooner resume TABLE`";
        return Error::operator(Code::FileDamaged, what, why, remedy);
    }
    if matches!(error, object_store::Error::NotFound { .. }) {
        let remedy = "restore the object; it must not be removed while the table refers to it";
        return Error::operator(Code::ObjectMissing, what, why, remedy);
    }
    Error::retry(Code::LakeUnreachable, what, why, "check that the lake's store can be reached; it is tried again")
}

/// Classifies an error at the start, where one of the whole store needs an operator: the store has never worked.
pub fn probe_error(what: String, error: &object_store::Error) -> Error {
    let why = root_cause(error);
    match store_remedy(error, &why) {
        Some((code, remedy)) => Error::operator(code, what, why, remedy),
        None => store_error(what, error),
    }
}

/// Code and remedy of an error that concerns the whole store; none for any other error.
fn store_remedy(error: &object_store::Error, why: &str) -> Option<(Code, &'static str)> {
    match error {
        object_store::Error::NotFound { source, .. } if names_bucket(source) => {
            Some((Code::LakeBucketMissing, "create the bucket, or correct url in [lake]"))
        }
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => Some((
            Code::LakePermissionDenied,
            "check the credentials of [lake] and what they may do: list, get, put, delete",
        )),
        _ if why.contains("redential") || why.contains("169.254.") => {
            Some((Code::LakePermissionDenied, "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run under a role"))
        }
        _ if why.contains("InvalidAccessKeyId") || why.contains("SignatureDoesNotMatch") => {
            Some((Code::LakePermissionDenied, "check the credentials of [lake]"))
        }
        _ if why.contains("No space left") => {
            Some((Code::LakeDiskFull, "make space on the lake's disk; it is tried again"))
        }
        _ => None,
    }
}

/// Whether a NotFound speaks of the bucket rather than of an object.
pub fn names_bucket(source: &impl Display) -> bool {
    source.to_string().contains("NoSuchBucket")
}

/// The message of an error, followed by that of its innermost cause unless it contains it already.
fn root_cause(error: &object_store::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let (outer, inner) = (error.to_string(), cause.to_string());
    if outer.contains(&inner) { outer } else { format!("{outer}: {inner}") }
}
