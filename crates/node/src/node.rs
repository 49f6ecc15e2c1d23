//! One running node: the parts that every call needs, put together once.

use std::sync::Arc;

use http::Uri;
use tokio_util::sync::CancellationToken;
use weir_event::flow::Time;
use weir_log::Log;

use crate::clock::Clock;
use crate::control::Control;

/// What a node is made of.
pub struct Parts {
    /// The log, open.
    pub log: Arc<dyn Log>,
    /// The control state, caught up.
    pub control: Control,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The organization that the node acts for: a domain name.
    pub organization: String,
    /// The URL under which others reach the node, if it is configured.
    pub url: Option<Uri>,
}

/// One running node.
pub struct Node {
    parts: Parts,
    started: Time,
    closing: CancellationToken,
}

impl Node {
    /// A node of these parts, which serves nothing yet.
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Self> {
        let started = parts.clock.now();
        Arc::new(Self { parts, started, closing: CancellationToken::new() })
    }

    /// What the node has decided.
    #[must_use]
    pub fn control(&self) -> &Control {
        &self.parts.control
    }

    /// Every stream.
    #[must_use]
    pub fn log(&self) -> &Arc<dyn Log> {
        &self.parts.log
    }

    /// Time.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.parts.clock
    }

    /// The organization that the node acts for.
    #[must_use]
    pub fn organization(&self) -> &str {
        &self.parts.organization
    }

    /// The configured public URL.
    #[must_use]
    pub fn url(&self) -> Option<&Uri> {
        self.parts.url.as_ref()
    }

    /// When the node started.
    #[must_use]
    pub fn started(&self) -> Time {
        self.started
    }

    /// Cancelled once the node begins to stop.
    #[must_use]
    pub fn closing(&self) -> &CancellationToken {
        &self.closing
    }
}
