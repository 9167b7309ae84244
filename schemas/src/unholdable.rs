//! Values that a type cannot hold.

/// Reason why a value cannot be represented in its target type: a phrase that follows "because".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unholdable(pub &'static str);
