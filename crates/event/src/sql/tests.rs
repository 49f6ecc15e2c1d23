//! Every rule of the language by cases of our own, then the public compatibility kit where it is at hand, then
//! properties over random expressions.

use std::borrow::Cow;

use proptest::prelude::*;

use super::*;
use crate::value;

fn event() -> Event<'static> {
    let mut event = Event::new("a-1", "https://example.com/stations/7", "com.example.reading.v1").unwrap();
    for (name, value) in [
        ("subject", value::Value::from("hall")),
        ("time", value::Value::from("2018-04-26T14:48:09+02:00")),
        ("dataschema", value::Value::from("https://example.com/schema")),
        ("temp", value::Value::from(21)),
        ("level", value::Value::from("7")),
        ("ok", value::Value::from(true)),
        ("word", value::Value::from("TRUE")),
        ("least", value::Value::from(i32::MIN)),
        ("city", value::Value::from("Zürich 漢字")),
        ("raw", value::Value::Binary(Cow::Borrowed(b"\x00\xff"))),
    ] {
        event.set(name, value).unwrap();
    }
    event
}

fn boolean(value: bool) -> Value<'static> {
    Value::Boolean(value)
}

fn integer(value: i32) -> Value<'static> {
    Value::Integer(value)
}

fn string(value: &str) -> Value<'_> {
    Value::String(Cow::Borrowed(value))
}

/// Checks value and kinds of errors in complete evaluation, and that fail fast mode agrees.
#[track_caller]
fn check(text: &str, expected: Value<'_>, kinds: &[Kind]) {
    let expression = Expression::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    let event = event();
    let (value, errors) = expression.evaluate(&event);
    let found: Vec<_> = errors.iter().map(Error::kind).collect();
    assert_eq!((value, &*found), (expected.clone(), kinds), "{text} {errors:?}");
    let passes = kinds.is_empty() && expected == boolean(true);
    assert_eq!(expression.matches(&event), passes, "{text}");
}

#[track_caller]
fn holds(text: &str) {
    check(text, boolean(true), &[]);
}

#[track_caller]
fn fails_to_hold(text: &str) {
    check(text, boolean(false), &[]);
}

#[track_caller]
fn normal(text: &str, expected: &str) {
    assert_eq!(Expression::parse(text).unwrap().to_string(), expected);
}

/// Where the error is, and its message from "expected" on.
#[track_caller]
fn refused(text: &str, line: usize, column: usize, message: &str) {
    let error = Expression::parse(text).expect_err(text);
    assert_eq!((error.line, error.column), (line, column), "{text}: {error}");
    assert_eq!(error.to_string(), format!("line {line}, column {column}: {message}"));
    assert_eq!(error.kind(), Kind::Parse);
}

#[test]
fn literals() {
    check("true", boolean(true), &[]);
    check("fAlSe", boolean(false), &[]);
    check("0", integer(0), &[]);
    check("+5", integer(5), &[]);
    check("-2147483648", integer(i32::MIN), &[]);
    check("2147483647", integer(i32::MAX), &[]);
    check("007", integer(7), &[]);
    check("'a\"b'", string("a\"b"), &[]);
    check("\"a'b\"", string("a'b"), &[]);
    check(r"'it\'s'", string("it's"), &[]);
    check("'it''s'", string("it's"), &[]);
    check(r#""say \"so\"""#, string(r#"say "so""#), &[]);
}
