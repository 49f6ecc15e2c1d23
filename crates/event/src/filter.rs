//! Filters: which events of a stream a subscription wants. The dialects of the CloudEvents Subscriptions API
//! (section 3.2.4.1): `exact`, `prefix`, `suffix`, `all`, `any`, `not` and `sql`, for which `cesql` is another
//! name.
//!
//! [`Filter::parse`] takes the JSON array of a subscription; all its members must be true, so that an empty one
//! lets every event through. A filter is a pure function of an event's attributes: it never sees the data, has
//! no state, never fails and costs at most time linear in what it was given and in the attributes.
//!
//! - `exact`, `prefix` and `suffix` compare the canonical text of an attribute, case-sensitively. An attribute
//!   that the event does not have is unequal to everything.
//! - `not` is plain negation: of a comparison with an attribute that is not there it is true, and so it is of
//!   an expression that failed.
//! - `sql` lets through only what is `true` without any error; see [`sql`](crate::sql).
//!
//! What cannot be meant is refused when it is parsed, with the place and what was expected there: unknown
//! dialects, names no attribute can have, empty values, expressions that do not parse or call functions that do
//! not exist.
//!
//! Filters that differ only in order, repetition, needless nesting or the spelling of an expression are equal
//! and have one hash, so that equal filters of many subscriptions can be evaluated once. What was given is kept
//! beside that canonical form and comes back as it was.

#[cfg(test)]
mod tests;

use std::fmt;
use std::hash::{Hash, Hasher};

use serde_json::{Value as Json, json};

use crate::sql::{Attribute, Expression, ParseError, nearest};
use crate::{Event, value};

/// Most parts of one filter: dialect objects, and attributes named in them.
pub const PARTS_MAX: usize = 1000;
/// How deep `all`, `any` and `not` may be nested.
pub const DEPTH_MAX: usize = 32;
/// Most bytes of all values and expressions of one filter together.
pub const BYTES_MAX: usize = 64 * 1024;

/// The dialects there are. The last is another name for the one before.
pub const DIALECTS: [&str; 8] = ["exact", "prefix", "suffix", "all", "any", "not", "sql", "cesql"];

/// A filter. See the module's head.
#[derive(Clone, Debug)]
pub struct Filter {
    /// The array it was made from.
    given: Vec<Json>,
    canonical: Node,
}

/// The canonical form. What is cheap comes first, in this order and so in a row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Node {
    Compare(Relation, Attribute, Box<str>),
    Not(Box<Node>),
    /// Sorted, without repetition, none of them `All`; never just one. None is true.
    All(Vec<Node>),
    /// Sorted, without repetition, none of them `Any`; at least two.
    Any(Vec<Node>),
    Sql(Expression),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Relation {
    Exact,
    Prefix,
    Suffix,
}

impl Filter {
    /// The filter that lets every event through.
    #[must_use]
    pub fn everything() -> Self {
        Self { given: Vec::new(), canonical: Node::All(Vec::new()) }
    }

    /// Parses the `filters` of a subscription: an array of dialect objects.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(filters: &Json) -> Result<Self, Error> {
        let Json::Array(given) = filters else {
            let error = Error::new(&Place::Root, format!("expected an array, found {}", shown(filters)));
            return Err(match filters {
                Json::Object(_) => error.hint("put the filter into an array: [ … ]"),
                _ => error,
            });
        };
        let canonical = Parser { parts: 0, bytes: 0 }.list(given, &Place::Root, 0)?;
        Ok(Self { given: given.clone(), canonical: all(canonical) })
    }

    /// The filter of one CESQL expression.
    ///
    /// # Errors
    /// If the expression does not parse or calls a function that does not exist.
    pub fn sql(expression: &str) -> Result<Self, ParseError> {
        let canonical = all(vec![Node::Sql(Expression::parse_filter(expression)?)]);
        Ok(Self { given: vec![json!({ "sql": expression })], canonical })
    }

    /// The filter that lets through what both let through.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let given = self.given.iter().chain(&other.given).cloned().collect();
        Self { given, canonical: all(vec![self.canonical.clone(), other.canonical.clone()]) }
    }

    /// Whether an event passes.
    #[must_use]
    pub fn matches(&self, event: &Event<'_>) -> bool {
        self.canonical.matches(event)
    }

    /// Whether every event passes, whatever it is.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        matches!(&self.canonical, Node::All(parts) if parts.is_empty())
    }

    /// The array the filter was made from.
    #[must_use]
    pub fn to_json(&self) -> Json {
        Json::Array(self.given.clone())
    }
}

impl Default for Filter {
    fn default() -> Self {
        Self::everything()
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.canonical == other.canonical
    }
}

impl Eq for Filter {}

impl Hash for Filter {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.canonical.hash(state);
    }
}

/// The JSON the filter was made from, on one line.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_json().fmt(f)
    }
}

impl Node {
    fn matches(&self, event: &Event<'_>) -> bool {
        match self {
            Node::Compare(relation, attribute, text) => match event.get(attribute.name()) {
                None => false,
                Some(value) => relation.holds(&value, text),
            },
            Node::Not(node) => !node.matches(event),
            Node::All(nodes) => nodes.iter().all(|node| node.matches(event)),
            Node::Any(nodes) => nodes.iter().any(|node| node.matches(event)),
            Node::Sql(expression) => expression.matches(event),
        }
    }
}

impl Relation {
    fn holds(self, value: &value::Value<'_>, text: &str) -> bool {
        let value = value.text();
        match self {
            Relation::Exact => *value == *text,
            Relation::Prefix => value.starts_with(text),
            Relation::Suffix => value.ends_with(text),
        }
    }
}

/// All of `nodes`, canonical.
fn all(nodes: Vec<Node>) -> Node {
    let flat = nodes.into_iter().flat_map(|node| match node {
        Node::All(nodes) => nodes,
        other => vec![other],
    });
    one_or(Node::All, flat.collect())
}

/// Any of `nodes`, canonical. There is at least one.
fn any(nodes: Vec<Node>) -> Node {
    let flat = nodes.into_iter().flat_map(|node| match node {
        Node::Any(nodes) => nodes,
        other => vec![other],
    });
    one_or(Node::Any, flat.collect())
}

fn not(node: Node) -> Node {
    match node {
        Node::Not(node) => *node,
        other => Node::Not(Box::new(other)),
    }
}

fn one_or(group: fn(Vec<Node>) -> Node, mut nodes: Vec<Node>) -> Node {
    nodes.sort_unstable();
    nodes.dedup();
    match (nodes.len(), nodes.pop()) {
        (1, Some(only)) => only,
        (_, last) => {
            nodes.extend(last);
            group(nodes)
        }
    }
}

struct Parser {
    parts: usize,
    bytes: usize,
}

impl Parser {
    fn list(&mut self, list: &[Json], place: &Place<'_>, depth: usize) -> Result<Vec<Node>, Error> {
        list.iter()
            .enumerate()
            .map(|(at, filter)| self.filter(filter, &Place::At(place, at), depth))
            .collect()
    }

    /// One dialect object.
    fn filter(&mut self, filter: &Json, place: &Place<'_>, depth: usize) -> Result<Node, Error> {
        self.part(place)?;
        if depth > DEPTH_MAX {
            return Err(Error::new(place, format!("nested deeper than {DEPTH_MAX} levels")));
        }
        let Json::Object(members) = filter else {
            let message = format!("expected an object such as {EXAMPLE}, found {}", shown(filter));
            let error = Error::new(place, message);
            return Err(match filter {
                Json::String(_) => error.hint("an expression is written {\"sql\": \"…\"}"),
                _ => error,
            });
        };
        let mut members = members.iter();
        let (Some((dialect, body)), None) = (members.next(), members.next()) else {
            let message = "expected an object with one member, the name of a dialect";
            let error = Error::new(place, format!("{message}; found {}", shown(filter)));
            return Err(match filter {
                Json::Object(members) if members.len() > 1 => {
                    error.hint("write one object for each; all of an array must be true")
                }
                _ => error.hint(format!("for instance {EXAMPLE}")),
            });
        };
        let inner = Place::Member(place, dialect);
        match dialect.as_str() {
            "exact" => self.compare(Relation::Exact, body, &inner),
            "prefix" => self.compare(Relation::Prefix, body, &inner),
            "suffix" => self.compare(Relation::Suffix, body, &inner),
            "all" => self.group(body, &inner, depth).map(all),
            "any" => self.group(body, &inner, depth).map(any),
            "not" => self.filter(body, &inner, depth + 1).map(not),
            "sql" | "cesql" => self.sql(body, &inner),
            _ => Err(unknown_dialect(dialect, body, &inner)),
        }
    }

    fn compare(&mut self, relation: Relation, body: &Json, place: &Place<'_>) -> Result<Node, Error> {
        let Json::Object(members) = body else {
            let message = format!("expected an object of attributes and texts, found {}", shown(body));
            return Err(Error::new(place, message));
        };
        if members.is_empty() {
            return Err(Error::new(place, "expected at least one attribute, found none"));
        }
        let mut nodes = Vec::with_capacity(members.len());
        for (name, text) in members {
            let place = Place::Member(place, name);
            self.part(&place)?;
            if let Err(wrong) = value::check_name(name.as_bytes()) {
                let error = Error::new(&place, format!("the attribute name {} {wrong}", short(name)));
                let lower = name.to_ascii_lowercase();
                return Err(match lower != *name && value::check_name(lower.as_bytes()).is_ok() {
                    true => error.hint(format!("did you mean {}?", short(&lower))),
                    false => error,
                });
            }
            let Json::String(text) = text else {
                let error = Error::new(&place, format!("expected a string, found {}", shown(text)));
                return Err(match text {
                    Json::Number(_) | Json::Bool(_) => error.hint(format!("write \"{text}\"")),
                    _ => error,
                });
            };
            if text.is_empty() {
                let error = Error::new(&place, "expected a string that is not empty, found \"\"");
                return Err(
                    error.hint(format!("whether an attribute is there: {{\"sql\": \"EXISTS {name}\"}}"))
                );
            }
            self.text(text, &place)?;
            nodes.push(Node::Compare(relation, Attribute::new(name), text.as_str().into()));
        }
        Ok(all(nodes))
    }

    fn group(&mut self, body: &Json, place: &Place<'_>, depth: usize) -> Result<Vec<Node>, Error> {
        match body {
            Json::Array(list) if !list.is_empty() => self.list(list, place, depth + 1),
            Json::Array(_) => Err(Error::new(place, "expected at least one filter, found an empty array")),
            other => Err(Error::new(place, format!("expected an array of filters, found {}", shown(other)))),
        }
    }

    fn sql(&mut self, body: &Json, place: &Place<'_>) -> Result<Node, Error> {
        let Json::String(text) = body else {
            return Err(Error::new(place, format!("expected a CESQL expression, found {}", shown(body))));
        };
        self.text(text, place)?;
        Expression::parse_filter(text).map(Node::Sql).map_err(|error| Error {
            sql: Some(Box::new(error.clone())),
            ..Error::new(place, error.to_string())
        })
    }

    fn part(&mut self, place: &Place<'_>) -> Result<(), Error> {
        self.parts += 1;
        match self.parts > PARTS_MAX {
            true => Err(Error::new(place, format!("more than {PARTS_MAX} parts in one filter"))),
            false => Ok(()),
        }
    }

    fn text(&mut self, text: &str, place: &Place<'_>) -> Result<(), Error> {
        self.bytes += text.len();
        match self.bytes > BYTES_MAX {
            true => Err(Error::new(place, format!("more than {BYTES_MAX} bytes of text in one filter"))),
            false => Ok(()),
        }
    }
}

const EXAMPLE: &str = "{\"exact\": {\"type\": \"…\"}}";

fn unknown_dialect(dialect: &str, body: &Json, place: &Place<'_>) -> Error {
    let mut error = Error::new(place, format!("{} is no dialect", short(dialect)));
    error.unknown_dialect = true;
    if let Some(meant) = nearest(dialect, DIALECTS) {
        return error.hint(format!("did you mean \"{meant}\"?"));
    }
    match body {
        // {"type": "…"}, as other systems have it.
        Json::String(text) if value::check_name(dialect.as_bytes()).is_ok() => {
            let text: String = text.chars().filter(|c| !c.is_control()).take(80).collect();
            error.hint(format!("did you mean {}?", json!({"exact": {dialect: text}})))
        }
        _ => error.hint("known are exact, prefix, suffix, all, any, not and sql"),
    }
}

/// A JSON value as a message shows it: what it is rather than all of it.
fn shown(json: &Json) -> String {
    match json {
        Json::Null => "null".to_owned(),
        Json::Bool(_) | Json::Number(_) => json.to_string(),
        Json::String(text) => short(text),
        Json::Array(list) if list.is_empty() => "an empty array".to_owned(),
        Json::Array(_) => "an array".to_owned(),
        Json::Object(members) => match members.len() {
            0 => "an empty object".to_owned(),
            1 => "an object".to_owned(),
            n => format!("{n} members"),
        },
    }
}

/// A text in quotes, cut if it is long.
fn short(text: &str) -> String {
    const SHOWN_CHARS: usize = 40;
    match text.char_indices().nth(SHOWN_CHARS) {
        None => format!("{text:?}"),
        Some((cut, _)) => format!("{:?}…", &text[..cut]),
    }
}

/// A place within the filters, for the JSON pointer of an error.
enum Place<'p> {
    Root,
    At(&'p Place<'p>, usize),
    Member(&'p Place<'p>, &'p str),
}

/// RFC 6901. A member whose name is too long to show, or not fit to be shown, is none of ours; nothing lies within
/// it, and the object that has it stands for it.
impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_BYTES: usize = 64;
        match self {
            Place::Root => Ok(()),
            Place::At(outer, at) => write!(f, "{outer}/{at}"),
            Place::Member(outer, name) if name.len() > SHOWN_BYTES || name.contains(char::is_control) => {
                outer.fmt(f)
            }
            Place::Member(outer, name) => {
                write!(f, "{outer}/{}", name.replace('~', "~0").replace('/', "~1"))
            }
        }
    }
}

/// Why JSON is no filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pointer: String,
    message: String,
    unknown_dialect: bool,
    sql: Option<Box<ParseError>>,
}

impl Error {
    fn new(place: &Place<'_>, message: impl Into<String>) -> Self {
        Self { pointer: place.to_string(), message: message.into(), unknown_dialect: false, sql: None }
    }

    fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.message = format!("{}; {hint}", self.message);
        self
    }

    /// Where: a JSON pointer into what was given to [`Filter::parse`]; empty for the whole.
    #[must_use]
    pub fn pointer(&self) -> &str {
        &self.pointer
    }

    /// What is wrong there, with a guess at what was meant where there is one.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether a dialect is named that is none of [`DIALECTS`], be it misspelt or of another system.
    #[must_use]
    pub fn is_unknown_dialect(&self) -> bool {
        self.unknown_dialect
    }

    /// If an expression is wrong: where within it, and how.
    #[must_use]
    pub fn sql(&self) -> Option<&ParseError> {
        self.sql.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pointer.as_str() {
            "" => f.write_str(&self.message),
            pointer => write!(f, "{pointer}: {}", self.message),
        }
    }
}

impl std::error::Error for Error {}
