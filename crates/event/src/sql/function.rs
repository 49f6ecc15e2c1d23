//! The built-in functions (section 3.5): which there are, what they take and give, and what they do with values
//! already cast. Characters are Unicode scalar values; positions count from 1.

use std::borrow::Cow;

use super::{Error, Kind, Value, nearest};

/// A type of the language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Boolean,
    Integer,
    String,
}

impl Type {
    pub(super) fn name(self) -> &'static str {
        match self {
            Type::Boolean => "Boolean",
            Type::Integer => "Integer",
            Type::String => "String",
        }
    }

    /// The value an operation of this type yields when an operand had an error (section 3.1).
    pub(super) fn zero(self) -> Value<'static> {
        match self {
            Type::Boolean => Value::Boolean(false),
            Type::Integer => Value::Integer(0),
            Type::String => Value::String(Cow::Borrowed("")),
        }
    }
}

/// The functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Abs,
    Bool,
    Concat,
    ConcatWs,
    Int,
    IsBool,
    IsInt,
    Left,
    Length,
    Lower,
    Right,
    String,
    Substring,
    Trim,
    Upper,
}

/// Name, function, least and most arguments, and how a message shows it.
type Entry = (&'static str, Function, usize, usize, &'static str);

const FUNCTIONS: [Entry; 15] = [
    ("ABS", Function::Abs, 1, 1, "ABS(x)"),
    ("BOOL", Function::Bool, 1, 1, "BOOL(x)"),
    ("CONCAT", Function::Concat, 0, usize::MAX, "CONCAT(x, …)"),
    ("CONCAT_WS", Function::ConcatWs, 1, usize::MAX, "CONCAT_WS(delimiter, x, …)"),
    ("INT", Function::Int, 1, 1, "INT(x)"),
    ("IS_BOOL", Function::IsBool, 1, 1, "IS_BOOL(x)"),
    ("IS_INT", Function::IsInt, 1, 1, "IS_INT(x)"),
    ("LEFT", Function::Left, 2, 2, "LEFT(x, length)"),
    ("LENGTH", Function::Length, 1, 1, "LENGTH(x)"),
    ("LOWER", Function::Lower, 1, 1, "LOWER(x)"),
    ("RIGHT", Function::Right, 2, 2, "RIGHT(x, length)"),
    ("STRING", Function::String, 1, 1, "STRING(x)"),
    ("SUBSTRING", Function::Substring, 2, 3, "SUBSTRING(x, position, length)"),
    ("TRIM", Function::Trim, 1, 1, "TRIM(x)"),
    ("UPPER", Function::Upper, 1, 1, "UPPER(x)"),
];

/// Why there is no such function: what could have stood there, and what may have been meant.
pub(super) struct Unknown {
    pub(super) expected: String,
    pub(super) hint: Option<String>,
}

impl Function {
    /// The function of that name, in capitals, that takes so many arguments.
    pub(super) fn resolve(name: &str, arguments: usize) -> Result<Self, Unknown> {
        match FUNCTIONS.iter().find(|entry| entry.0 == name) {
            Some(&(_, function, least, most, _)) if (least..=most).contains(&arguments) => Ok(function),
            Some(&(.., shown)) => Err(Unknown { expected: shown.to_owned(), hint: None }),
            None => {
                let meant = nearest(name, FUNCTIONS.iter().map(|entry| entry.0));
                let meant = FUNCTIONS.iter().find(|entry| Some(entry.0) == meant);
                let names: Vec<_> = FUNCTIONS.iter().map(|entry| entry.0).collect();
                Err(Unknown {
                    expected: match meant {
                        Some(_) => "a function that exists".to_owned(),
                        None => format!("one of the functions {}", names.join(", ")),
                    },
                    hint: meant.map(|entry| format!("did you mean {}?", entry.4)),
                })
            }
        }
    }

    pub(super) fn returns(self) -> Type {
        match self {
            Function::Abs | Function::Int | Function::Length => Type::Integer,
            Function::Bool | Function::IsBool | Function::IsInt => Type::Boolean,
            _ => Type::String,
        }
    }

    /// The type argument number `at` is cast to. `None`: any.
    pub(super) fn takes(self, at: usize) -> Option<Type> {
        match self {
            Function::Bool | Function::Int | Function::String | Function::IsBool | Function::IsInt => None,
            Function::Abs => Some(Type::Integer),
            Function::Left | Function::Right | Function::Substring if at > 0 => Some(Type::Integer),
            _ => Some(Type::String),
        }
    }
}

/// What an operation yields: a value, and an error beside it if there was one.
pub(super) type Outcome<'e> = (Value<'e>, Option<Error>);

pub(super) fn absolute(x: i32) -> Outcome<'static> {
    match x.checked_abs() {
        Some(absolute) => (Value::Integer(absolute), None),
        None => {
            let message = format!("ABS({x}) does not fit in 32 bits");
            (Value::Integer(i32::MAX), Some(Error::new(Kind::Math, message)))
        }
    }
}

pub(super) fn length(x: &str) -> i32 {
    // Expressions and attributes are far shorter than 2^31 characters.
    i32::try_from(x.chars().count()).unwrap_or(i32::MAX)
}

pub(super) fn lower(x: Cow<'_, str>) -> Cow<'_, str> {
    let is_lower = x.is_ascii() && !x.bytes().any(|b| b.is_ascii_uppercase());
    if is_lower { x } else { Cow::Owned(x.to_lowercase()) }
}

pub(super) fn upper(x: Cow<'_, str>) -> Cow<'_, str> {
    let is_upper = x.is_ascii() && !x.bytes().any(|b| b.is_ascii_lowercase());
    if is_upper { x } else { Cow::Owned(x.to_uppercase()) }
}

pub(super) fn trim(x: Cow<'_, str>) -> Cow<'_, str> {
    let end = x.trim_end().len();
    let start = end - x[..end].trim_start().len();
    slice(x, start, end)
}

pub(super) fn left(x: Cow<'_, str>, length: i32) -> Outcome<'_> {
    let Ok(length) = usize::try_from(length) else {
        return (Value::String(x), Some(negative("LEFT", length)));
    };
    let end = after(&x, length);
    (Value::String(slice(x, 0, end)), None)
}

pub(super) fn right(x: Cow<'_, str>, length: i32) -> Outcome<'_> {
    let Ok(length) = usize::try_from(length) else {
        return (Value::String(x), Some(negative("RIGHT", length)));
    };
    let start = before(&x, length).unwrap_or(0);
    let end = x.len();
    (Value::String(slice(x, start, end)), None)
}

pub(super) fn substring(x: Cow<'_, str>, position: i32, count: Option<i32>) -> Outcome<'_> {
    let fail = |error| (Type::String.zero(), Some(error));
    let count = match count.map(|count| usize::try_from(count).map_err(|_| count)) {
        None => usize::MAX,
        Some(Ok(count)) => count,
        Some(Err(count)) => return fail(negative("SUBSTRING", count)),
    };
    let distance = position.unsigned_abs() as usize;
    let start = match position {
        0 => return (Type::String.zero(), None),
        1.. => x.char_indices().nth(distance - 1).map(|(at, _)| at),
        _ => before(&x, distance),
    };
    let Some(start) = start else {
        let message =
            format!("SUBSTRING: position {position} is outside a text of {} characters", length(&x));
        return fail(Error::new(Kind::FunctionEvaluation, message));
    };
    let end = start + after(&x[start..], count);
    (Value::String(slice(x, start, end)), None)
}

/// Where the first `count` characters end.
fn after(x: &str, count: usize) -> usize {
    x.char_indices().nth(count).map_or(x.len(), |(at, _)| at)
}

/// Where the last `count` characters begin. `None` if there are fewer.
fn before(x: &str, count: usize) -> Option<usize> {
    match count {
        0 => Some(x.len()),
        _ => x.char_indices().nth_back(count - 1).map(|(at, _)| at),
    }
}

fn slice(x: Cow<'_, str>, start: usize, end: usize) -> Cow<'_, str> {
    match x {
        Cow::Borrowed(text) => Cow::Borrowed(&text[start..end]),
        Cow::Owned(mut text) => {
            text.truncate(end);
            text.drain(..start);
            Cow::Owned(text)
        }
    }
}

fn negative(function: &str, length: i32) -> Error {
    Error::new(Kind::FunctionEvaluation, format!("{function}: the length {length} is negative"))
}
