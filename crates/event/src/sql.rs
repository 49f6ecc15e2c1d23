//! The CloudEvents SQL expression language (CESQL) 1.0.0: an expression over the context attributes of one
//! event that yields a Boolean, an Integer or a String.
//!
//! [`Expression::parse`] compiles a text once: names and functions are resolved, patterns and sets prepared,
//! constant parts folded. It is then evaluated for each event in one of the specification's two modes:
//! [`Expression::evaluate`] goes on after an error and returns a value together with every error;
//! [`Expression::matches`] stops at the first one, because a filter lets nothing through that had an error.
//!
//! What holds, whatever the text and whatever the event:
//!
//! - Nothing panics and every evaluation ends. An expression is at most [`BYTES_MAX`] long, [`DEPTH_MAX`] deep
//!   and has at most [`NODES_MAX`] parts; each part costs at most time linear in the attribute it looks at,
//!   `LIKE` included; all strings made during one evaluation together stay under [`MADE_BYTES_MAX`].
//! - An operation one of whose operands had an error is not carried out: it yields the zero value of its return
//!   type (`false`, `0`, `''`) and the operand's errors. So `1 / missing` is no division by zero, and
//!   `missing != 2` is `false`.
//! - Displaying an expression gives its normal form: keywords and functions in capitals, names in small
//!   letters, one kind of quote where possible, parentheses where they are needed and where `NOT` binds tighter
//!   than readers of other SQLs expect. It parses to an equal expression (unless the spaces it adds exceed
//!   [`BYTES_MAX`]), and equality and hash are those of the normal form.
//!
//! Where the specification leaves something open, contradicts itself or its own compatibility kit:
//!
//! - `AND`, `OR` and `XOR` share one precedence and are evaluated left to right (section 3.6; the accompanying
//!   ANTLR grammar has them associate to the right). The normal form puts parentheses around every mixture.
//! - `NOT` does not cast an Integer: `NOT 10` is `true` with a cast error. The kit demands it, section 3.7 does
//!   not. A cast that fails under `NOT` counts as `false` for the same reason.
//! - Arithmetic that leaves 32 bits is a math error and yields 0, in the manner of `ABS`.
//! - In a string literal a quote may also be escaped by doubling it, as the ANTLR grammar has it. A backslash
//!   stands for itself except before the literal's own quote and, in a `LIKE` pattern, before `%` and `_`.
//! - `4-1` is a subtraction, as in the specification's EBNF; a sign belongs to a literal only where no operator
//!   can stand.
//!
//! Functions of the user's own are not offered: expressions come from strangers, and a stream's `lift` gives
//! them what they need from the data. `IS_INT` and `IS_BOOL`, of the drafts and of other engines, are.

mod compile;
mod evaluate;
mod function;
mod lexer;
mod like;
mod parser;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};

pub(crate) use compile::Attribute;

use crate::Event;

/// Longest expression, in bytes.
pub const BYTES_MAX: usize = 16 * 1024;
/// Deepest nesting of operations, functions and parentheses. A row of the same logic operator counts once.
pub const DEPTH_MAX: usize = 100;
/// Most literals, attributes, operators and function calls in one expression.
pub const NODES_MAX: usize = 4096;
/// Most characters between two `%` of a `LIKE` pattern, if one of them is `_`. Without `_` there is no limit.
pub const LIKE_GAP_MAX: usize = 64;
/// Most bytes that the functions of one evaluation may make altogether; going beyond is an error of kind
/// [`Kind::Generic`].
pub const MADE_BYTES_MAX: usize = 1024 * 1024;

/// A compiled expression. See the module's head for what it promises.
#[derive(Clone, Debug)]
pub struct Expression {
    normal: Box<str>,
    root: compile::Node,
    unknown: Option<Box<ParseError>>,
}

impl Expression {
    /// Compiles an expression. A call of a function that does not exist parses, as the specification has it,
    /// and is an error of every evaluation that reaches it; [`Expression::parse_filter`] refuses it.
    ///
    /// # Errors
    /// What is wrong, and where, if the text is no expression or exceeds a limit.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let ast = parser::parse(text)?;
        let (root, unknown) = compile::compile(&ast, text)?;
        Ok(Self { normal: ast.to_string().into(), root, unknown: unknown.map(Box::new) })
    }

    /// Compiles an expression that is to filter events: what is certain to fail is refused at once.
    ///
    /// # Errors
    /// As [`Expression::parse`], and for a call of a function that does not exist.
    pub fn parse_filter(text: &str) -> Result<Self, ParseError> {
        let mut expression = Self::parse(text)?;
        match expression.unknown.take() {
            None => Ok(expression),
            Some(error) => Err(*error),
        }
    }

    /// The value of the expression for an event, and every error met on the way (complete evaluation mode).
    #[must_use]
    pub fn evaluate<'e>(&'e self, event: &'e Event<'_>) -> (Value<'e>, Vec<Error>) {
        evaluate::completely(&self.root, event)
    }

    /// Whether the expression is `true` for an event without any error (fail fast mode).
    #[must_use]
    pub fn matches(&self, event: &Event<'_>) -> bool {
        evaluate::matches(&self.root, event)
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.normal)
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.normal == other.normal
    }
}

impl Eq for Expression {}

impl Hash for Expression {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.normal.hash(state);
    }
}

impl PartialOrd for Expression {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Expression {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.normal.cmp(&other.normal)
    }
}

impl std::str::FromStr for Expression {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::parse(text)
    }
}

/// A value of the language (section 3.1). Timestamps, URIs and binary attributes are Strings.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Value<'a> {
    /// `true` or `false`.
    Boolean(bool),
    /// 32 bits, signed.
    Integer(i32),
    /// Unicode text.
    String(Cow<'a, str>),
}

impl Value<'_> {
    /// The same value, owning its text.
    #[must_use]
    pub fn into_owned(self) -> Value<'static> {
        match self {
            Value::Boolean(value) => Value::Boolean(value),
            Value::Integer(value) => Value::Integer(value),
            Value::String(text) => Value::String(Cow::Owned(text.into_owned())),
        }
    }
}

/// As cast to a String (section 3.7): `true`, `-5`, `text`.
impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Boolean(value) => value.fmt(f),
            Value::Integer(value) => value.fmt(f),
            Value::String(text) => f.write_str(text),
        }
    }
}

/// The kinds of error every engine must tell apart (section 3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The text is no expression. Only [`ParseError`] is of this kind.
    Parse,
    /// Division by zero, or a result that does not fit in 32 bits.
    Math,
    /// A value could not be taken for the type needed.
    Cast,
    /// A call of a function that does not exist, or not with so many arguments.
    MissingFunction,
    /// A function does not take these arguments.
    FunctionEvaluation,
    /// The event has no such attribute.
    MissingAttribute,
    /// Anything else; here: [`MADE_BYTES_MAX`] is exceeded.
    Generic,
}

impl Kind {
    /// The name that the compatibility kit gives the kind.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Parse => "parse",
            Kind::Math => "math",
            Kind::Cast => "cast",
            Kind::MissingFunction => "missingFunction",
            Kind::FunctionEvaluation => "functionEvaluation",
            Kind::MissingAttribute => "missingAttribute",
            Kind::Generic => "generic",
        }
    }
}

/// An error met while evaluating.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
    message: String,
}

impl Error {
    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// What kind of error it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Why a text is no expression. Displayed on one line: `line 1, column 14: expected … , found …; hint`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// Where, in bytes from the start.
    pub offset: usize,
    /// Where: the line, from 1.
    pub line: usize,
    /// Where: the character within the line, from 1.
    pub column: usize,
    /// What could have stood there.
    pub expected: String,
    /// What stands there.
    pub found: String,
    /// What the writer may have meant, if that can be guessed.
    pub hint: Option<String>,
}

impl ParseError {
    fn new(text: &str, offset: usize, expected: impl Into<String>, found: impl Into<String>) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Self {
            offset,
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            expected: expected.into(),
            found: found.into(),
            hint: None,
        }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Always [`Kind::Parse`].
    #[must_use]
    pub fn kind(&self) -> Kind {
        Kind::Parse
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, column, expected, found, .. } = self;
        write!(f, "line {line}, column {column}: expected {expected}, found {found}")?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ParseError {}

/// The candidate nearest to `word`, if it is near enough to have been meant. Case does not matter.
pub(crate) fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    // Words come from strangers: the distance of a long one is not worth computing.
    if word.len() > 64 {
        return None;
    }
    let word = word.to_ascii_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&word, &candidate.to_ascii_lowercase()), candidate))
        .filter(|&(distance, candidate)| distance <= candidate.len().div_ceil(3).min(3))
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}
