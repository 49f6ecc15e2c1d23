//! Evaluation, written once for both modes: [`Report`] decides whether an error ends it or is collected.
//!
//! An operand that had an error is `None` here; the operation then yields its zero value. In fail fast mode
//! that never shows, because the error has already ended the evaluation.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::convert::Infallible;

use super::compile::{Attribute, Node, Set};
use super::function::{self, Function, Type};
use super::parser::{Binary, Logic};
use super::{Error, Kind, MADE_BYTES_MAX, Value};
use crate::{Event, value};

/// Where attributes come from.
pub(super) trait Attributes {
    fn get(&self, attribute: &Attribute) -> Option<value::Value<'_>>;
}

impl Attributes for Event<'_> {
    fn get(&self, attribute: &Attribute) -> Option<value::Value<'_>> {
        Event::get(self, attribute.name())
    }
}

/// No attributes at all: for expressions that need none.
pub(super) struct Nothing;

impl Attributes for Nothing {
    fn get(&self, _: &Attribute) -> Option<value::Value<'_>> {
        None
    }
}

/// The value of a node and all errors (complete evaluation mode, section 4.1).
pub(super) fn completely<'e, A: Attributes>(node: &'e Node, attributes: &'e A) -> (Value<'e>, Vec<Error>) {
    let mut evaluation = Evaluation { attributes, report: Vec::new(), made: 0 };
    match evaluation.node(node) {
        Ok(value) => (value, evaluation.report),
        Err(never) => match never {},
    }
}

/// Whether a node is `true` without an error (fail fast mode).
pub(super) fn matches<A: Attributes>(node: &Node, attributes: &A) -> bool {
    let mut evaluation = Evaluation { attributes, report: FailFast, made: 0 };
    matches!(evaluation.node(node), Ok(Value::Boolean(true)))
}

/// What becomes of errors.
trait Report {
    /// Why an evaluation ends early.
    type Stop;

    /// Takes an error, making it only if it is kept.
    fn error(&mut self, error: impl FnOnce() -> Error) -> Result<(), Self::Stop>;

    /// How many errors were taken.
    fn count(&self) -> usize;
}

impl Report for Vec<Error> {
    type Stop = Infallible;

    fn error(&mut self, error: impl FnOnce() -> Error) -> Result<(), Infallible> {
        self.push(error());
        Ok(())
    }

    fn count(&self) -> usize {
        self.len()
    }
}

struct FailFast;

/// There was an error.
struct Failed;

impl Report for FailFast {
    type Stop = Failed;

    fn error(&mut self, _: impl FnOnce() -> Error) -> Result<(), Failed> {
        Err(Failed)
    }

    fn count(&self) -> usize {
        0
    }
}

struct Evaluation<'e, A, R> {
    attributes: &'e A,
    report: R,
    /// Bytes of the strings that functions made.
    made: usize,
}

impl<'e, A: Attributes, R: Report> Evaluation<'e, A, R> {
    fn node(&mut self, node: &'e Node) -> Result<Value<'e>, R::Stop> {
        Ok(match node {
            Node::Constant(value) => borrow(value),
            Node::Attribute(attribute) => self.attribute(attribute)?,
            Node::Exists(attribute) => Value::Boolean(self.attributes.get(attribute).is_some()),
            Node::Not(operand) => Value::Boolean(self.not(operand)?),
            Node::Negate(operand) => Value::Integer(self.negate(operand)?),
            Node::Binary(operator, operands) => self.binary(*operator, &operands[0], &operands[1])?,
            Node::Logic(operator, operands) => Value::Boolean(self.logic(*operator, operands)?),
            Node::Like { operand, pattern, negated } => {
                let operand = self.operand(operand)?;
                Value::Boolean(operand.is_some_and(|value| pattern.matches(&text(value)) != *negated))
            }
            Node::In { operand, set, negated } => {
                Value::Boolean(self.contains(operand, set)?.is_some_and(|found| found != *negated))
            }
            Node::Call(function, arguments) => self.call(*function, arguments)?,
            Node::Unknown(message) => {
                self.report.error(|| Error::new(Kind::MissingFunction, &**message))?;
                Value::Boolean(false)
            }
        })
    }

    /// The value of an operand. `None` if it had an error.
    fn operand(&mut self, node: &'e Node) -> Result<Option<Value<'e>>, R::Stop> {
        let before = self.report.count();
        let value = self.node(node)?;
        Ok((self.report.count() == before).then_some(value))
    }

    /// The value of an operand as a Boolean.
    fn boolean(&mut self, node: &'e Node) -> Result<Option<bool>, R::Stop> {
        match self.operand(node)? {
            None => Ok(None),
            Some(value) => self.cast_to_boolean(&value),
        }
    }

    /// The value of an operand as an Integer.
    fn integer(&mut self, node: &'e Node) -> Result<Option<i32>, R::Stop> {
        match self.operand(node)? {
            None => Ok(None),
            Some(value) => self.cast_to_integer(&value),
        }
    }

    fn attribute(&mut self, attribute: &'e Attribute) -> Result<Value<'e>, R::Stop> {
        let attributes: &'e A = self.attributes;
        match attributes.get(attribute) {
            Some(value) => Ok(of_attribute(value)),
            None => {
                let message = || format!("the event has no attribute `{}`", attribute.name());
                self.report.error(|| Error::new(Kind::MissingAttribute, message()))?;
                Ok(Value::Boolean(false))
            }
        }
    }

    fn not(&mut self, operand: &'e Node) -> Result<bool, R::Stop> {
        match self.operand(operand)? {
            None => Ok(false),
            Some(Value::Integer(_)) => {
                // Not a cast of section 3.7: see the head of `sql`.
                self.report.error(|| Error::new(Kind::Cast, "NOT takes a Boolean; this is an Integer"))?;
                Ok(true)
            }
            Some(value) => Ok(!self.cast_to_boolean(&value)?.unwrap_or(false)),
        }
    }

    fn negate(&mut self, operand: &'e Node) -> Result<i32, R::Stop> {
        match self.integer(operand)? {
            None => Ok(0),
            Some(value) => self.checked(value.checked_neg(), || format!("-({value})")),
        }
    }

    fn binary(&mut self, operator: Binary, left: &'e Node, right: &'e Node) -> Result<Value<'e>, R::Stop> {
        match operator {
            Binary::Equal | Binary::NotEqual => {
                let left = self.operand(left)?;
                let right = self.operand(right)?;
                let equal = match (left, right) {
                    (Some(left), Some(right)) => self.equal(&left, &right)?,
                    _ => None,
                };
                Ok(Value::Boolean(equal.is_some_and(|equal| equal == (operator == Binary::Equal))))
            }
            Binary::Less | Binary::LessOrEqual | Binary::Greater | Binary::GreaterOrEqual => {
                let (left, right) = (self.integer(left)?, self.integer(right)?);
                Ok(Value::Boolean(match (left, right) {
                    (Some(left), Some(right)) => compare(operator, left.cmp(&right)),
                    _ => false,
                }))
            }
            Binary::Multiply | Binary::Divide | Binary::Remainder | Binary::Add | Binary::Subtract => {
                let (left, right) = (self.integer(left)?, self.integer(right)?);
                Ok(Value::Integer(match (left, right) {
                    (Some(left), Some(right)) => self.arithmetic(operator, left, right)?,
                    _ => 0,
                }))
            }
        }
    }

    /// Whether `left`, cast to the type of `right`, is equal to it. `None` if the cast failed.
    fn equal(&mut self, left: &Value<'e>, right: &Value<'e>) -> Result<Option<bool>, R::Stop> {
        Ok(match right {
            Value::Boolean(right) => self.cast_to_boolean(left)?.map(|left| left == *right),
            Value::Integer(right) => self.cast_to_integer(left)?.map(|left| left == *right),
            Value::String(right) => Some(is_text(left, right)),
        })
    }

    fn arithmetic(&mut self, operator: Binary, left: i32, right: i32) -> Result<i32, R::Stop> {
        let shown = || format!("{left} {} {right}", operator.symbol());
        let result = match operator {
            Binary::Divide | Binary::Remainder if right == 0 => {
                self.report.error(|| Error::new(Kind::Math, format!("{}: division by zero", shown())))?;
                return Ok(0);
            }
            Binary::Multiply => left.checked_mul(right),
            Binary::Divide => left.checked_div(right),
            // Of the least integer by -1 the quotient does not fit, but the remainder is 0.
            Binary::Remainder => Some(left.wrapping_rem(right)),
            Binary::Subtract => left.checked_sub(right),
            _ => left.checked_add(right),
        };
        self.checked(result, shown)
    }

    fn checked(&mut self, result: Option<i32>, shown: impl Fn() -> String) -> Result<i32, R::Stop> {
        match result {
            Some(result) => Ok(result),
            None => {
                self.report
                    .error(|| Error::new(Kind::Math, format!("{} does not fit in 32 bits", shown())))?;
                Ok(0)
            }
        }
    }

    /// A row of operands from left to right. One that had an error makes the operation, so far, `false`: with
    /// that `AND` is decided, `OR` and `XOR` go on to find what other errors there are.
    fn logic(&mut self, operator: Logic, operands: &'e [Node]) -> Result<bool, R::Stop> {
        let mut result = operator == Logic::And;
        let mut failed = false;
        for operand in operands {
            match (operator, self.boolean(operand)?) {
                (Logic::And, None | Some(false)) => return Ok(false),
                (Logic::Or, Some(true)) if !failed => return Ok(true),
                (Logic::Xor, Some(value)) => result ^= value,
                (_, None) => failed = true,
                (_, Some(_)) => {}
            }
        }
        Ok(result && !failed)
    }

    /// Whether a set contains the operand. `None` if there was an error before the element was found.
    fn contains(&mut self, operand: &'e Node, set: &'e Set) -> Result<Option<bool>, R::Stop> {
        let value = self.operand(operand)?;
        if let (Some(Value::String(text)), Some(texts)) = (&value, &set.texts) {
            return Ok(Some(texts.binary_search_by(|known| (**known).cmp(text)).is_ok()));
        }
        let mut failed = value.is_none();
        for element in &set.elements {
            let element = self.operand(element)?;
            let (Some(value), Some(element)) = (&value, element) else {
                failed = true;
                continue;
            };
            // The element is cast to the type of the value: the other way round than `=` does.
            match self.equal(&element, value)? {
                None => failed = true,
                Some(true) if !failed => return Ok(Some(true)),
                Some(_) => {}
            }
        }
        Ok((!failed).then_some(false))
    }

    fn call(&mut self, function: Function, arguments: &'e [Node]) -> Result<Value<'e>, R::Stop> {
        if matches!(function, Function::Concat | Function::ConcatWs) {
            return self.concat(function, arguments);
        }
        // No other function takes more than three.
        let mut values = [const { None }; 3];
        let mut failed = false;
        for (at, (argument, place)) in arguments.iter().zip(&mut values).enumerate() {
            *place = match self.operand(argument)? {
                Some(value) => self.cast(value, function.takes(at))?,
                None => None,
            };
            failed |= place.is_none();
        }
        if failed {
            return Ok(function.returns().zero());
        }
        let (value, error) = match (function, values) {
            (Function::Int, [Some(value), ..]) => {
                return Ok(Value::Integer(self.cast_to_integer(&value)?.unwrap_or(0)));
            }
            (Function::Bool, [Some(value), ..]) => {
                return Ok(Value::Boolean(self.cast_to_boolean(&value)?.unwrap_or(false)));
            }
            (Function::String, [Some(value), ..]) => (Value::String(text(value)), None),
            (Function::IsInt, [Some(value), ..]) => (Value::Boolean(as_integer(&value).is_some()), None),
            (Function::IsBool, [Some(value), ..]) => (Value::Boolean(as_boolean(&value).is_some()), None),
            (Function::Abs, [Some(Value::Integer(x)), ..]) => function::absolute(x),
            (Function::Length, [Some(Value::String(x)), ..]) => (Value::Integer(function::length(&x)), None),
            (Function::Lower, [Some(Value::String(x)), ..]) => return self.made(function::lower(x)),
            (Function::Upper, [Some(Value::String(x)), ..]) => return self.made(function::upper(x)),
            (Function::Trim, [Some(Value::String(x)), ..]) => (Value::String(function::trim(x)), None),
            (Function::Left, [Some(Value::String(x)), Some(Value::Integer(y)), _]) => function::left(x, y),
            (Function::Right, [Some(Value::String(x)), Some(Value::Integer(y)), _]) => function::right(x, y),
            (Function::Substring, [Some(Value::String(x)), Some(Value::Integer(position)), length]) => {
                let length = match length {
                    Some(Value::Integer(length)) => Some(length),
                    _ => None,
                };
                function::substring(x, position, length)
            }
            // `resolve` and `cast` leave nothing else.
            (function, _) => (function.returns().zero(), None),
        };
        if let Some(error) = error {
            self.report.error(|| error)?;
        }
        Ok(value)
    }

    fn concat(&mut self, function: Function, arguments: &'e [Node]) -> Result<Value<'e>, R::Stop> {
        let mut texts = Vec::with_capacity(arguments.len());
        let mut bytes = 0;
        for argument in arguments {
            if let Some(value) = self.operand(argument)? {
                let text = text(value);
                bytes += text.len();
                texts.push(text);
            }
        }
        if texts.len() < arguments.len() {
            return Ok(Type::String.zero());
        }
        let delimiter = match function {
            Function::ConcatWs => texts.remove(0),
            _ => Cow::Borrowed(""),
        };
        // Before anything is made: the expression could ask for far more than the limit.
        bytes += delimiter.len() * texts.len();
        if self.made + bytes > MADE_BYTES_MAX {
            return self.made_too_much();
        }
        self.made(Cow::Owned(texts.join(&*delimiter)))
    }

    /// A text that a function made, if that is not too much altogether.
    fn made(&mut self, text: Cow<'e, str>) -> Result<Value<'e>, R::Stop> {
        if let Cow::Owned(made) = &text {
            self.made += made.len();
            if self.made > MADE_BYTES_MAX {
                return self.made_too_much();
            }
        }
        Ok(Value::String(text))
    }

    #[cold]
    fn made_too_much(&mut self) -> Result<Value<'e>, R::Stop> {
        let message = || format!("the expression makes more than {MADE_BYTES_MAX} bytes of text");
        self.report.error(|| Error::new(Kind::Generic, message()))?;
        Ok(Type::String.zero())
    }

    fn cast(&mut self, value: Value<'e>, to: Option<Type>) -> Result<Option<Value<'e>>, R::Stop> {
        Ok(match to {
            None => Some(value),
            Some(Type::Boolean) => self.cast_to_boolean(&value)?.map(Value::Boolean),
            Some(Type::Integer) => self.cast_to_integer(&value)?.map(Value::Integer),
            Some(Type::String) => Some(Value::String(text(value))),
        })
    }

    fn cast_to_boolean(&mut self, value: &Value<'e>) -> Result<Option<bool>, R::Stop> {
        let cast = as_boolean(value);
        if cast.is_none() {
            self.report.error(|| cast_error(value, Type::Boolean))?;
        }
        Ok(cast)
    }

    fn cast_to_integer(&mut self, value: &Value<'e>) -> Result<Option<i32>, R::Stop> {
        let cast = as_integer(value);
        if cast.is_none() {
            self.report.error(|| cast_error(value, Type::Integer))?;
        }
        Ok(cast)
    }
}

fn compare(operator: Binary, ordering: Ordering) -> bool {
    match operator {
        Binary::Less => ordering.is_lt(),
        Binary::LessOrEqual => ordering.is_le(),
        Binary::Greater => ordering.is_gt(),
        _ => ordering.is_ge(),
    }
}

fn borrow<'e>(value: &'e Value<'_>) -> Value<'e> {
    match value {
        Value::Boolean(value) => Value::Boolean(*value),
        Value::Integer(value) => Value::Integer(*value),
        Value::String(text) => Value::String(Cow::Borrowed(text)),
    }
}

/// An attribute's value as the language sees it (section 3.2).
fn of_attribute(value: value::Value<'_>) -> Value<'_> {
    match value {
        value::Value::Boolean(value) => Value::Boolean(value),
        value::Value::Integer(value) => Value::Integer(value),
        value::Value::String(text) | value::Value::Uri(text) | value::Value::UriRef(text) => {
            Value::String(text)
        }
        other => Value::String(Cow::Owned(other.text().into_owned())),
    }
}

// Casts, section 3.7.

fn text(value: Value<'_>) -> Cow<'_, str> {
    match value {
        Value::String(text) => text,
        Value::Boolean(value) => Cow::Borrowed(if value { "true" } else { "false" }),
        Value::Integer(value) => Cow::Owned(value.to_string()),
    }
}

fn is_text(value: &Value<'_>, text: &str) -> bool {
    match value {
        Value::String(value) => value == text,
        Value::Boolean(value) => text == if *value { "true" } else { "false" },
        Value::Integer(value) => itoa::Buffer::new().format(*value) == text,
    }
}

fn as_boolean(value: &Value<'_>) -> Option<bool> {
    match value {
        Value::Boolean(value) => Some(*value),
        Value::Integer(value) => Some(*value != 0),
        Value::String(text) if text.eq_ignore_ascii_case("true") => Some(true),
        Value::String(text) if text.eq_ignore_ascii_case("false") => Some(false),
        Value::String(_) => None,
    }
}

fn as_integer(value: &Value<'_>) -> Option<i32> {
    match value {
        Value::Boolean(value) => Some(i32::from(*value)),
        Value::Integer(value) => Some(*value),
        Value::String(text) => text.parse().ok(),
    }
}

#[cold]
fn cast_error(value: &Value<'_>, to: Type) -> Error {
    const SHOWN_CHARS: usize = 40;
    let text = value.to_string();
    let shown = match text.char_indices().nth(SHOWN_CHARS) {
        None => text,
        Some((cut, _)) => format!("{}…", &text[..cut]),
    };
    let article = if to == Type::Integer { "an" } else { "a" };
    Error::new(Kind::Cast, format!("{shown:?} is not {article} {}", to.name()))
}
