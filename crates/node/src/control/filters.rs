//! Which events a subscription lets through: CloudEvents filters, types and source, compiled once.

use serde_json::Value;

/// All of it must hold: the type is listed (if any are), the source is the given one (if any), and every filter
/// matches. Equal sets have equal [`Filters::text`], so that a delivery evaluates equal ones once per event.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    types: Box<[Box<str>]>,
    source: Option<Box<str>>,
    expressions: Box<[Value]>,
    text: Box<str>,
}

impl Filters {
    /// Whether every event passes.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.types.is_empty() && self.source.is_none() && self.expressions.is_empty()
    }

    /// The canonical text: equal for equal sets.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The event types let through; empty: all.
    #[must_use]
    pub fn types(&self) -> &[Box<str>] {
        &self.types
    }

    /// The one source let through.
    #[must_use]
    pub fn source(&self) -> Option<&str> {
        self.source.as_deref()
    }

    /// The filters as they were given.
    #[must_use]
    pub fn expressions(&self) -> &[Value] {
        &self.expressions
    }
}

impl PartialEq for Filters {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Filters {}

impl std::hash::Hash for Filters {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}
