//! What decides who may ask.

use std::sync::Arc;

use super::live::Live;
use super::settings::HttpSettings;

/// A listener's settings, and the token that counts at the moment.
#[derive(Clone)]
pub struct Gate {
    /// Settings of the listener.
    pub settings: Arc<HttpSettings>,
    /// Holds the token.
    pub live: Live,
}
