//! Which events a subscription lets through: CloudEvents filters, types and source, compiled once, and for the
//! node's own streams what concerns their reader.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde_json::{Map, Value};
use weir_event::Event;
use weir_event::filter::{DIALECTS, Filter};

use super::members::{Members, bad};
use super::record::Pattern;
use crate::error::{Code, Error};

/// All of it must hold: the type is listed (if any are), the source is the given one (if any), every filter
/// matches, and the event concerns its reader. Equal sets are equal values with equal hashes, so that a delivery
/// evaluates equal ones once per event.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    filter: Filter,
    /// As given; compared and looked through as a set.
    types: Box<[Box<str>]>,
    source: Option<Box<str>>,
    scope: Scope,
}

/// Whom an event of the node's own streams concerns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Everyone who may read at all.
    #[default]
    All,
    /// Who may read the streams that the pattern covers.
    Streams(Pattern),
    /// The organization that an event names as its consumer.
    Organization(Box<str>),
}

/// The attribute of derived events that names the stream they are about.
pub const STREAM: &str = "stream";
/// The attribute of derived events that names the organization they are about.
pub const CONSUMER: &str = "consumer";

impl Filters {
    /// Reads `filters`, `types` and `source` of a request, or `filters` alone of what is imposed.
    ///
    /// Errors: `bad-filter`, with line, column and expectation for an expression; `unsupported-dialect`;
    /// `bad-member`.
    pub fn parse(members: &Members<'_>) -> Result<Self, Error> {
        let filter = match members.get("filters") {
            None => Filter::everything(),
            Some(value) => Filter::parse(value).map_err(|error| {
                let path = members.at("filters");
                if error.is_unknown_dialect() {
                    return Error::new(Code::UnsupportedDialect, error.to_string())
                        .with("member", path)
                        .with("pointer", error.pointer())
                        .with("supported", DIALECTS.to_vec());
                }
                let failure = Error::new(Code::BadFilter, error.to_string())
                    .with("member", path)
                    .with("pointer", error.pointer());
                match error.sql() {
                    Some(sql) => located(failure, sql),
                    None => failure,
                }
            })?,
        };
        let types = members.texts("types", 200, 256)?;
        Ok(Self { filter, types, source: members.text("source", 2048)?, scope: Scope::All })
    }

    /// The filter of one CESQL expression, as `?filter=` gives it.
    pub fn sql(expression: &str) -> Result<Self, Error> {
        match Filter::sql(expression) {
            Ok(filter) => Ok(Self { filter, ..Self::default() }),
            Err(error) => Err(located(
                Error::new(Code::BadFilter, error.to_string()).with("parameter", "filter"),
                &error,
            )),
        }
    }

    /// Everything that concerns a reader of the node's own streams.
    #[must_use]
    pub fn of_scope(scope: Scope) -> Self {
        Self { scope, ..Self::default() }
    }

    /// These filters for a reader of the node's own streams.
    #[must_use]
    pub fn within(&self, scope: Scope) -> Self {
        Self { scope, ..self.clone() }
    }

    /// Whether every event passes.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.filter.is_everything()
            && self.types.is_empty()
            && self.source.is_none()
            && self.scope == Scope::All
    }

    /// Whether an event passes.
    #[must_use]
    pub fn matches(&self, event: &Event<'_>) -> bool {
        (self.types.is_empty() || self.types.iter().any(|ty| **ty == *event.ty()))
            && self.source.as_deref().is_none_or(|source| source == event.source())
            && self.scope.matches(event)
            && self.filter.matches(event)
    }

    /// Whether what passes here surely passes there too. `false` if that can not be seen from their shape.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        let types = other.types.is_empty()
            || !self.types.is_empty() && self.types.iter().all(|ty| other.types.contains(ty));
        let source = other.source.is_none() || self.source == other.source;
        // Canonical forms are conjunctions without repetition: adding what is already there changes nothing.
        types && source && self.filter.and(&other.filter) == self.filter
    }

    /// Writes `filters`, `types` and `source` as they were given; not what lets everything through.
    pub fn to_members(&self, into: &mut Map<String, Value>) {
        if !self.filter.is_everything() {
            into.insert("filters".into(), self.filter.to_json());
        }
        if !self.types.is_empty() {
            let types = self.types.iter().map(|ty| Value::from(ty.as_ref())).collect();
            into.insert("types".into(), Value::Array(types));
        }
        if let Some(source) = self.source.as_deref() {
            into.insert("source".into(), source.into());
        }
    }

    /// `None` for what lets everything through: nothing to evaluate.
    #[must_use]
    pub fn worth(this: &Arc<Self>) -> Option<Arc<Self>> {
        (!this.is_all()).then(|| Arc::clone(this))
    }

    fn sorted_types(&self) -> Vec<&str> {
        let mut types: Vec<&str> = self.types.iter().map(AsRef::as_ref).collect();
        types.sort_unstable();
        types
    }
}

impl Scope {
    /// Whether the event concerns the reader.
    #[must_use]
    pub fn matches(&self, event: &Event<'_>) -> bool {
        let named = |attribute: &str| event.get(attribute).map(|value| value.text().into_owned());
        match self {
            Scope::All => true,
            Scope::Streams(pattern) => {
                named(STREAM).and_then(|name| name.parse().ok()).is_some_and(|name| pattern.covers(&name))
            }
            Scope::Organization(organization) => named(CONSUMER).is_some_and(|name| name == **organization),
        }
    }
}

impl PartialEq for Filters {
    fn eq(&self, other: &Self) -> bool {
        self.filter == other.filter
            && self.source == other.source
            && self.scope == other.scope
            && self.sorted_types() == other.sorted_types()
    }
}

impl Eq for Filters {}

impl Hash for Filters {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.filter.hash(state);
        self.source.hash(state);
        self.scope.hash(state);
        self.sorted_types().hash(state);
    }
}

fn located(error: Error, sql: &weir_event::sql::ParseError) -> Error {
    let error = error
        .with("line", sql.line)
        .with("column", sql.column)
        .with("offset", sql.offset)
        .with("expected", sql.expected.as_str())
        .with("found", sql.found.as_str());
    match sql.hint.as_deref() {
        Some(hint) => error.with("hint", hint),
        None => error,
    }
}

/// The filters of an object whose only member about events is `filters`.
pub(super) fn imposed(members: &Members<'_>) -> Result<Option<Arc<Filters>>, Error> {
    let Some(value) = members.get("filters") else { return Ok(None) };
    if !value.is_array() {
        return Err(bad(&members.at("filters"), "must be a list of filters"));
    }
    let filters = Filters::parse(members)?;
    Ok((!filters.is_all()).then(|| Arc::new(filters)))
}
