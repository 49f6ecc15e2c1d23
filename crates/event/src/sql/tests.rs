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

#[test]
fn strings_keep_the_backslashes_that_escape_no_quote() {
    check(r"'a\b'", string(r"a\b"), &[]);
    check(r"'a\\b'", string(r"a\\b"), &[]);
    check(r"'a\\'", string(r"a\\"), &[]);
    check(r#""a\'b""#, string(r"a\'b"), &[]);
    check(r"'50\%'", string(r"50\%"), &[]);
    check("'two\nlines\t'", string("two\nlines\t"), &[]);
}

#[test]
fn attributes() {
    check("id", string("a-1"), &[]);
    check("SOURCE", string("https://example.com/stations/7"), &[]);
    check("Type", string("com.example.reading.v1"), &[]);
    check("specversion", string("1.0"), &[]);
    check("time", string("2018-04-26T14:48:09+02:00"), &[]);
    check("dataschema", string("https://example.com/schema"), &[]);
    check("temp", integer(21), &[]);
    check("ok", boolean(true), &[]);
    check("raw", string("AP8="), &[]);
    check("missing", boolean(false), &[Kind::MissingAttribute]);
    check("data", boolean(false), &[Kind::MissingAttribute]);
}

#[test]
fn exists() {
    holds("EXISTS id AND exists Subject AND NOT EXISTS missing");
    fails_to_hold("EXISTS missing");
    fails_to_hold("NOT EXISTS time");
}

#[test]
fn unary_operators() {
    fails_to_hold("NOT TRUE");
    holds("NOT 'FALSE'");
    holds("NOT NOT ok");
    check("NOT 10", boolean(true), &[Kind::Cast]);
    check("NOT temp", boolean(true), &[Kind::Cast]);
    check("NOT 'maybe'", boolean(true), &[Kind::Cast]);
    check("NOT missing", boolean(false), &[Kind::MissingAttribute]);
    check("-temp", integer(-21), &[]);
    check("--5", integer(5), &[]);
    check("---5", integer(-5), &[]);
    check("-'10'", integer(-10), &[]);
    check("-TRUE", integer(-1), &[]);
    check("-NOT FALSE", integer(-1), &[]);
    check("-'x'", integer(0), &[Kind::Cast]);
    check("-missing", integer(0), &[Kind::MissingAttribute]);
    check("-least", integer(0), &[Kind::Math]);
    check("--2147483648", integer(0), &[Kind::Math]);
}

#[test]
fn arithmetic() {
    check("4 * 2 + 4 / 2", integer(10), &[]);
    check("4 * (2 + 4) / 2", integer(12), &[]);
    check("10 - 3 - 2", integer(5), &[]);
    check("100 / 10 / 5", integer(2), &[]);
    check("7 / -2", integer(-3), &[]);
    check("-7 % 3", integer(-1), &[]);
    check("7 % -3", integer(1), &[]);
    check("temp + level", integer(28), &[]);
    check("TRUE + '2'", integer(3), &[]);
    check("4-1", integer(3), &[]);
    check("temp-1", integer(20), &[]);
    check("4 -1", integer(3), &[]);
    check("4 - -1", integer(5), &[]);
    check("4 + +1", integer(5), &[]);
    check("2*-3", integer(-6), &[]);
    check("5 / 0", integer(0), &[Kind::Math]);
    check("5 % 0", integer(0), &[Kind::Math]);
    check("missing / 0", integer(0), &[Kind::MissingAttribute]);
    check("1 / missing", integer(0), &[Kind::MissingAttribute]);
    check("2147483647 + 1", integer(0), &[Kind::Math]);
    check("-2147483648 - 1", integer(0), &[Kind::Math]);
    check("65536 * 65536", integer(0), &[Kind::Math]);
    check("least / -1", integer(0), &[Kind::Math]);
    check("least % -1", integer(0), &[]);
    check("'x' + 1", integer(0), &[Kind::Cast]);
}

#[test]
fn equality_casts_the_left_side_to_the_type_of_the_right() {
    holds("temp = 21");
    holds("temp = '21'");
    holds("'21' = temp");
    holds("level = 7");
    holds("'+7' = 7");
    fails_to_hold("7 = '+7'");
    holds("'TRUE' = true");
    fails_to_hold("true = 'TRUE'");
    holds("true = 'true'");
    holds("TRUE = 1");
    holds("5 = TRUE");
    fails_to_hold("TRUE = 5");
    holds("temp != 22");
    holds("temp <> 22");
    holds("subject != 'Hall'");
    check("subject = 1", boolean(false), &[Kind::Cast]);
    check("subject != 1", boolean(false), &[Kind::Cast]);
    check("missing = ''", boolean(false), &[Kind::MissingAttribute]);
    check("'' != missing", boolean(false), &[Kind::MissingAttribute]);
    check("1 / 0 = 0", boolean(false), &[Kind::Math]);
}

#[test]
fn order_is_of_integers() {
    holds("temp > 5 AND temp >= 21 AND temp < 22 AND temp <= 21");
    fails_to_hold("temp > 21");
    holds("level < '10'");
    holds("FALSE < TRUE");
    check("subject < 'zzz'", boolean(false), &[Kind::Cast, Kind::Cast]);
    check("missing <= 2", boolean(false), &[Kind::MissingAttribute]);
}

#[test]
fn logic() {
    for (x, y) in [(false, false), (false, true), (true, false), (true, true)] {
        check(&format!("{x} AND {y}"), boolean(x && y), &[]);
        check(&format!("{x} OR {y}"), boolean(x || y), &[]);
        check(&format!("{x} XOR {y}"), boolean(x != y), &[]);
    }
    holds("1 AND 'True' AND ok");
    fails_to_hold("0 OR 'false'");
    check("TRUE AND subject", boolean(false), &[Kind::Cast]);
    // Short circuits.
    fails_to_hold("FALSE AND 1 / 0 = 1");
    holds("TRUE OR 1 / 0 = 1");
    holds("FALSE OR TRUE OR missing");
    fails_to_hold("TRUE AND FALSE AND missing");
    // No short circuits.
    check("TRUE AND 1 / 0 = 1", boolean(false), &[Kind::Math]);
    check("FALSE OR 1 / 0 = 1", boolean(false), &[Kind::Math]);
    check("TRUE XOR missing", boolean(false), &[Kind::MissingAttribute]);
    // What had an error is false.
    check("missing AND 1 / 0 = 1", boolean(false), &[Kind::MissingAttribute]);
    check("missing OR TRUE", boolean(false), &[Kind::MissingAttribute]);
    check("missing = '' OR 1 / 0 = 1", boolean(false), &[Kind::MissingAttribute, Kind::Math]);
    check("missing XOR 1 / 0 XOR TRUE", boolean(false), &[Kind::MissingAttribute, Kind::Math]);
}

#[test]
fn logic_is_read_from_left_to_right() {
    fails_to_hold("TRUE OR TRUE AND FALSE");
    holds("FALSE AND TRUE OR TRUE");
    holds("TRUE XOR TRUE OR TRUE");
    fails_to_hold("TRUE OR FALSE XOR TRUE");
    normal("a or b and c or d", "((a OR b) AND c) OR d");
    normal("a and b and (c and d)", "a AND b AND (c AND d)");
    normal("(a xor b) xor c", "a XOR b XOR c");
}

#[test]
fn like() {
    holds("subject LIKE 'h%'");
    holds("subject LIKE '%ll'");
    holds("subject LIKE '%a%' AND subject LIKE 'h__l' AND subject LIKE '%'");
    fails_to_hold("subject LIKE 'H%'");
    fails_to_hold("subject LIKE 'hal'");
    fails_to_hold("subject NOT LIKE 'h%'");
    holds("city LIKE 'Z_rich __'");
    holds("temp LIKE '2_' AND ok LIKE 't%'");
    holds(r"'100%' LIKE '100\%' AND 'a_b' LIKE 'a\_b'");
    fails_to_hold(r"'1000' LIKE '100\%'");
    holds(r"'a\b' LIKE 'a\b' AND 'it''s' LIKE 'it\'s'");
    holds("'a\nb' LIKE 'a_b'");
    check("missing LIKE '%'", boolean(false), &[Kind::MissingAttribute]);
    check("missing NOT LIKE '%'", boolean(false), &[Kind::MissingAttribute]);
}

#[test]
fn sets_are_cast_to_the_type_of_the_left_side() {
    holds("subject IN ('room', 'hall')");
    fails_to_hold("subject NOT IN ('room', 'hall')");
    holds("temp IN (1, '21')");
    holds("level IN (7)");
    fails_to_hold("level IN ('07')");
    holds("7 IN ('07')");
    holds("'true' IN (TRUE, 'x')");
    fails_to_hold("'TRUE' IN (TRUE, 'x')");
    holds("TRUE IN ('TRUE')");
    holds("source IN (id, source)");
    holds("subject IN ('hall', missing)");
    holds("subject IN (id, 'hall', 1 / 0)");
    holds("(1 + 1) IN (2)");
    check("subject IN (missing, 'hall')", boolean(false), &[Kind::MissingAttribute]);
    check("subject NOT IN (missing)", boolean(false), &[Kind::MissingAttribute]);
    check("missing IN ('a')", boolean(false), &[Kind::MissingAttribute]);
    check("missing NOT IN (1 / 0)", boolean(false), &[Kind::MissingAttribute, Kind::Math]);
    check("temp IN ('x', 21)", boolean(false), &[Kind::Cast]);
}

#[test]
fn cast_functions() {
    check("INT('-1')", integer(-1), &[]);
    check("int(TRUE)", integer(1), &[]);
    check("INT('2147483648')", integer(0), &[Kind::Cast]);
    check("INT(' 1')", integer(0), &[Kind::Cast]);
    check("BOOL('fAlSe')", boolean(false), &[]);
    check("BOOL(-50)", boolean(true), &[]);
    check("BOOL('yes')", boolean(false), &[Kind::Cast]);
    check("STRING(TRUE)", string("true"), &[]);
    check("STRING(-007)", string("-7"), &[]);
    check("IS_INT(level)", boolean(true), &[]);
    check("IS_INT(subject)", boolean(false), &[]);
    check("IS_BOOL(word)", boolean(true), &[]);
    check("is_bool(subject)", boolean(false), &[]);
    check("IS_INT(missing)", boolean(false), &[Kind::MissingAttribute]);
    check("STRING(missing)", string(""), &[Kind::MissingAttribute]);
}

#[test]
fn string_functions() {
    check("LENGTH(city)", integer(9), &[]);
    check("LENGTH(TRUE)", integer(4), &[]);
    check("LENGTH(missing)", integer(0), &[Kind::MissingAttribute]);
    check("CONCAT()", string(""), &[]);
    check("CONCAT(subject, '-', temp, ok)", string("hall-21true"), &[]);
    check("CONCAT('a', missing, 1 / 0)", string(""), &[Kind::MissingAttribute, Kind::Math]);
    check("CONCAT_WS(', ')", string(""), &[]);
    check("CONCAT_WS(', ', subject)", string("hall"), &[]);
    check("concat_ws(1, subject, '', temp)", string("hall1121"), &[]);
    check("LOWER('ÀB')", string("àb"), &[]);
    check("UPPER(city)", string("ZÜRICH 漢字"), &[]);
    check("UPPER('ß')", string("SS"), &[]);
    check("TRIM('\u{2003} a b \t')", string("a b"), &[]);
    check("TRIM('\u{0}a')", string("\u{0}a"), &[]);
    check("LEFT(city, 2)", string("Zü"), &[]);
    check("LEFT('abc', 10)", string("abc"), &[]);
    check("LEFT('abc', 0)", string(""), &[]);
    check("LEFT('abc', -1)", string("abc"), &[Kind::FunctionEvaluation]);
    check("RIGHT(city, 2)", string("漢字"), &[]);
    check("RIGHT('abc', 0)", string(""), &[]);
    check("RIGHT('abc', -1)", string("abc"), &[Kind::FunctionEvaluation]);
    check("RIGHT(CONCAT(subject, 's'), 3)", string("lls"), &[]);
    check("LEFT(LEFT('abc', -1), 1)", string(""), &[Kind::FunctionEvaluation]);
    check("LENGTH(5 / 0)", integer(0), &[Kind::Math]);
    check("LEFT(subject, 'x')", string(""), &[Kind::Cast]);
}

#[test]
fn substring() {
    check("SUBSTRING(city, 2)", string("ürich 漢字"), &[]);
    check("SUBSTRING(city, -2)", string("漢字"), &[]);
    check("SUBSTRING(city, 2, 3)", string("üri"), &[]);
    check("SUBSTRING(city, -2, 1)", string("漢"), &[]);
    check("SUBSTRING('abc', 3)", string("c"), &[]);
    check("SUBSTRING('abc', -3)", string("abc"), &[]);
    check("SUBSTRING('abc', 2, 0)", string(""), &[]);
    check("SUBSTRING('abc', 2, 2147483647)", string("bc"), &[]);
    check("SUBSTRING('abc', 0)", string(""), &[]);
    check("SUBSTRING('abc', 0, 1)", string(""), &[]);
    for outside in ["4", "-4", "4, 1", "-4, 1", "2, -1", "0, -1", "-2147483648"] {
        check(&format!("SUBSTRING('abc', {outside})"), string(""), &[Kind::FunctionEvaluation]);
    }
    check("SUBSTRING('', 1)", string(""), &[Kind::FunctionEvaluation]);
}

#[test]
fn abs() {
    check("ABS(-10)", integer(10), &[]);
    check("ABS('-10')", integer(10), &[]);
    check("ABS(least)", integer(i32::MAX), &[Kind::Math]);
    check("ABS(-2147483648)", integer(i32::MAX), &[Kind::Math]);
}

#[test]
fn functions_that_do_not_exist() {
    check("LENGHT(subject)", boolean(false), &[Kind::MissingFunction]);
    check("CONCAT_WS()", boolean(false), &[Kind::MissingFunction]);
    check("LENGTH()", boolean(false), &[Kind::MissingFunction]);
    check("SUBSTRING('a', 1, 2, 3)", boolean(false), &[Kind::MissingFunction]);
    check("FOO(missing)", boolean(false), &[Kind::MissingFunction]);
    for (text, message) in [
        (
            "EXISTS id AND lenght(id) > 3",
            "line 1, column 15: expected a function that exists, found `LENGHT` with 1 argument; \
             did you mean LENGTH(x)?",
        ),
        ("LEFT(id)", "line 1, column 1: expected LEFT(x, length), found `LEFT` with 1 argument"),
        (
            "NOW() = time",
            "line 1, column 1: expected one of the functions ABS, BOOL, CONCAT, CONCAT_WS, INT, IS_BOOL, IS_INT, \
             LEFT, LENGTH, LOWER, RIGHT, STRING, SUBSTRING, TRIM, UPPER, found `NOW` with 0 arguments",
        ),
    ] {
        assert_eq!(Expression::parse_filter(text).unwrap_err().to_string(), message);
    }
    assert!(Expression::parse_filter("LENGTH(id) > 3").is_ok());
}

#[test]
fn precedence() {
    for (text, parenthesised) in [
        ("a + b * c - d", "(a + (b * c)) - d"),
        ("a = b < c", "(a = b) < c"),
        ("a + 1 = b AND c", "((a + 1) = b) AND c"),
        ("NOT a = b", "(NOT a) = b"),
        ("NOT a LIKE 'x'", "(NOT a) LIKE 'x'"),
        ("NOT a AND b", "(NOT a) AND b"),
        ("-a * b", "(-a) * b"),
        ("-a LIKE 'x'", "(-a) LIKE 'x'"),
        ("a + b LIKE 'x'", "a + (b LIKE 'x')"),
        ("a * b IN (c)", "a * (b IN (c))"),
        ("a = b NOT IN (c)", "a = (b NOT IN (c))"),
        ("a IN (b) LIKE 'x' IN (c)", "((a IN (b)) LIKE 'x') IN (c)"),
        ("a = NOT b AND c", "(a = (NOT b)) AND c"),
        ("a = EXISTS b", "a = (EXISTS b)"),
    ] {
        let expression = Expression::parse(text).unwrap();
        assert_eq!(expression, Expression::parse(parenthesised).unwrap(), "{text}");
        assert_eq!(Expression::parse(&expression.to_string()).unwrap(), expression, "{text}");
    }
}

#[test]
fn normal_form() {
    normal("TYPE = \"x\"and(temp)>5", "type = 'x' AND temp > 5");
    normal("not(A=1)", "NOT (a = 1)");
    normal("(not a) = 1", "(NOT a) = 1");
    normal("exists A", "EXISTS a");
    normal("a<>+1", "a != 1");
    normal("a not in(1,-2)", "a NOT IN (1, -2)");
    normal("concat_ws ( ',' , length(a) )", "CONCAT_WS(',', LENGTH(a))");
    normal("- 5", "- 5");
    normal("--5", "--5");
    normal("a-1", "a - 1");
    normal("a - (b - c)", "a - (b - c)");
    normal(r#""it's""#, r"'it\'s'");
    normal(r#""a\'b""#, r#""a\'b""#);
    normal("x like '%\\_''%'", r"x LIKE '%\_\'%'");
    // Folding does not show.
    normal("1 + 1 = 2", "1 + 1 = 2");
}

#[test]
fn parse_errors_say_where_and_what() {
    refused("", 1, 1, "expected an expression, found the end");
    refused("  \n ", 2, 2, "expected an expression, found the end");
    refused("ABC(", 1, 5, "expected an expression, found the end");
    refused("type =", 1, 7, "expected an expression, found the end");
    refused("(type = 'a'", 1, 12, "expected an operator or `)`, found the end");
    refused("type = 'a')", 1, 11, "expected an operator or the end, found `)`");
    refused("LENGTH('a' 'b')", 1, 12, "expected an operator, `,` or `)`, found `'b'`");
    refused("LENGTH('a',)", 1, 12, "expected an expression, found `)`");
    refused("x LIKE 123", 1, 8, "expected a string literal, which the pattern of LIKE must be, found `123`");
    refused("x IN ()", 1, 7, "expected an expression, found `)`");
    refused("x IN 'a'", 1, 6, "expected `(` and the elements of the set, found `'a'`");
    refused("x NOT = 1", 1, 7, "expected LIKE or IN after NOT, found `=`");
    refused("EXISTS 'x'", 1, 8, "expected the name of an attribute, found `'x'`");
    refused("EXISTS in", 1, 8, "expected the name of an attribute, found `in`");
    refused("type = 'é' &", 1, 12, "expected an operator or an expression, found `&`; did you mean AND?");
    refused("a\n  == 1", 2, 4, "expected an expression, found `=`; equality is written with one =");
    refused("a AN b", 1, 3, "expected an operator or the end, found `AN`; did you mean AND?");
    refused("a 'b\n\tc'", 1, 3, r"expected an operator or the end, found `'b\n\tc'`");
    refused(
        &format!("a '{}'", "b".repeat(99)),
        1,
        3,
        &format!("expected an operator or the end, found `'{}…`", "b".repeat(39)),
    );
    refused(
        "subject IS NULL",
        1,
        9,
        "expected an operator or the end, found `IS`; whether an attribute is there is asked with EXISTS name, \
         NOT EXISTS name",
    );
    refused(
        "data.temp > 5",
        1,
        5,
        "expected an operator or an expression, found `.`; names have no dots, and an expression sees only the \
         attributes of an event, not its data",
    );
    refused("'abc", 1, 1, "expected a closing ', found the end");
    refused(r"'abc\'", 1, 1, r"expected a closing ', found the end; \' is a quote within the string");
    refused(
        "“x”",
        1,
        1,
        "expected an operator or an expression, found `“`; strings stand in straight quotes: 'text'",
    );
    refused("\u{a0}a", 1, 1, "expected an operator or an expression, found the character U+00A0");
    refused("a + + 1", 1, 5, "expected an expression, found `+`");
    refused("2147483648", 1, 1, "expected an integer from -2147483648 to 2147483647, found `2147483648`");
    refused("my_attr = 1", 1, 9, "expected `(`, found `=`; attribute names have no underscores");
    refused("f2(1)", 1, 1, "expected the name of a function, which is letters and underscores, found `f2`");
    refused(
        "a_1 = 1",
        1,
        1,
        "expected an expression, found `a_1`; attribute names are letters and digits, function names letters \
         and underscores",
    );
}

#[test]
fn limits_hold_and_speak() {
    let long = format!("a = '{}'", "x".repeat(BYTES_MAX));
    let found = format!("expected an expression of at most {BYTES_MAX} bytes, found {} bytes", long.len());
    refused(&long, 1, 1, &found);
    refused(
        &format!("x LIKE '%_{}%'", "a".repeat(LIKE_GAP_MAX)),
        1,
        8,
        "expected at most 64 characters between two % of a pattern with _, found 65",
    );
    let too_many = format!("{}1", "1,".repeat(NODES_MAX));
    let error = Expression::parse(&format!("a IN ({too_many})")).unwrap_err();
    assert_eq!((&*error.expected, &*error.found), ("an expression of at most 4096 parts", "more"));

    for (open, close) in
        [("(", ")"), ("NOT ", ""), ("- ", ""), ("ABS(", ")"), ("1 IN (", ")"), ("1-(", ")"), ("1=1+1*(", ")")]
    {
        let nested =
            |depth: usize| Expression::parse(&format!("{}a{}", open.repeat(depth), close.repeat(depth)));
        let levels = open.matches(['=', '+', '*', '-']).count().max(1);
        assert!(nested((DEPTH_MAX - 1) / levels).is_ok(), "{open}");
        let error = nested(DEPTH_MAX * 20).unwrap_err();
        assert_eq!(error.expected, format!("at most {DEPTH_MAX} levels of nesting"), "{open}");
    }
    // To the left it deepens without nesting in the text; a row of one operator does not deepen.
    assert!(Expression::parse(&format!("a{}", "-1".repeat(DEPTH_MAX))).is_err());
    assert!(Expression::parse(&format!("a{}", " LIKE 'x'".repeat(DEPTH_MAX))).is_err());
    assert!(Expression::parse(&format!("a{}", " AND a".repeat(NODES_MAX / 2 - 1))).is_ok());
}

#[test]
fn functions_make_only_so_much_text() {
    let mut event = event();
    event.set("big", "x".repeat(64 * 1024)).unwrap();
    for text in [
        format!("LENGTH(CONCAT({}big))", "big,".repeat(100)),
        format!("LENGTH(CONCAT_WS(big{})) = 1", ",1".repeat(100)),
        format!("{}UPPER(big)", "UPPER(big) = 'X' OR ".repeat(100)),
    ] {
        let expression = Expression::parse(&text).unwrap();
        let kinds: Vec<_> = expression.evaluate(&event).1.iter().map(Error::kind).collect();
        assert!(!kinds.is_empty() && kinds.iter().all(|kind| *kind == Kind::Generic), "{text}");
        assert!(!expression.matches(&event));
    }
    assert!(Expression::parse("LENGTH(CONCAT(big, big)) = 131072").unwrap().matches(&event));
}

#[test]
fn errors_read_well() {
    let event = event();
    for (text, message) in [
        ("missing", "the event has no attribute `missing`"),
        ("temp / 0", "21 / 0: division by zero"),
        ("temp * 2147483647", "21 * 2147483647 does not fit in 32 bits"),
        ("subject > 1", "\"hall\" is not an Integer"),
        ("subject AND TRUE", "\"hall\" is not a Boolean"),
        ("NOT temp", "NOT takes a Boolean; this is an Integer"),
        ("ABS(least)", "ABS(-2147483648) does not fit in 32 bits"),
        ("LEFT(subject, -3)", "LEFT: the length -3 is negative"),
        ("SUBSTRING(subject, 9)", "SUBSTRING: position 9 is outside a text of 4 characters"),
        ("FOO(1, 2)", "there is no function `FOO` with 2 arguments"),
    ] {
        let expression = Expression::parse(text).unwrap();
        assert_eq!(expression.evaluate(&event).1[0].to_string(), message);
    }
}

/// The public compatibility kit, in its half or whole, where it is at hand.
mod kit {
    use super::*;

    #[derive(Default, Debug)]
    struct Case {
        name: String,
        expression: String,
        result: Option<Value<'static>>,
        error: Option<String>,
        whole: bool,
        attributes: Vec<(String, Value<'static>)>,
    }

    /// Just the YAML the kit is written in: a list of flat maps with at most one map in each.
    fn read(text: &str) -> Vec<Case> {
        let mut cases: Vec<Case> = Vec::new();
        for line in text.lines() {
            let (indent, line) = (line.len() - line.trim_start().len(), line.trim());
            let (entry, line) = match line.strip_prefix("- ") {
                Some(line) => (true, line),
                None => (false, line),
            };
            if indent == 0 || line.is_empty() {
                continue;
            }
            let (key, text) = line.split_once(':').unwrap();
            let value = scalar(text.trim());
            if entry {
                cases.push(Case::default());
            }
            let case = cases.last_mut().unwrap();
            match (indent, key) {
                (6.., _) => case.attributes.push((key.to_owned(), value)),
                (_, "name") => case.name = value.to_string(),
                (_, "expression") => {
                    case.expression = match value {
                        Value::String(text) => text.into_owned(),
                        _ => text.trim().to_owned(),
                    }
                }
                (_, "result") => case.result = Some(value),
                (_, "error") => case.error = Some(value.to_string()),
                (_, "event") => case.whole = true,
                (_, "eventOverrides") => case.whole = false,
                other => panic!("unexpected {other:?}"),
            }
        }
        cases
    }

    fn scalar(text: &str) -> Value<'static> {
        let quoted = |quote| text.strip_prefix(quote)?.strip_suffix(quote);
        if let Some(text) = quoted('\'') {
            return Value::String(text.replace("''", "'").into());
        }
        if let Some(text) = quoted('"') {
            return Value::String(text.replace("\\\"", "\"").replace("\\\\", "\\").into());
        }
        match text.to_ascii_lowercase().as_str() {
            "true" => Value::Boolean(true),
            "false" => Value::Boolean(false),
            _ => match text.parse() {
                Ok(number) if !text.starts_with("--") => Value::Integer(number),
                _ => Value::String(text.to_owned().into()),
            },
        }
    }

    impl Case {
        fn event(&self) -> Event<'static> {
            let mut event = Event::new("an-id", "/a/source", "a.type").unwrap();
            if !self.whole {
                event.set("subject", "a subject").unwrap();
            }
            for (name, value) in &self.attributes {
                let value: value::Value<'_> = match value.clone() {
                    Value::Boolean(value) => value.into(),
                    Value::Integer(value) => value.into(),
                    Value::String(text) => text.into_owned().into(),
                };
                event.set(name.clone(), value).unwrap();
            }
            event
        }

        /// What is wrong, if anything.
        fn run(&self) -> Result<(), String> {
            let expression = match Expression::parse(&self.expression) {
                Ok(expression) => expression,
                Err(_) if self.error.as_deref() == Some("parse") => return Ok(()),
                Err(error) => return Err(error.to_string()),
            };
            let event = self.event();
            let (value, errors) = expression.evaluate(&event);
            let kinds: Vec<_> = errors.iter().map(|error| error.kind().name()).collect();
            let right = kinds == self.error.as_deref().map_or(vec![], |error| vec![error])
                && self.result.as_ref().is_none_or(|result| *result == value);
            let passes = errors.is_empty() && value == Value::Boolean(true);
            if expression.matches(&event) != passes {
                return Err("fail fast mode disagrees".to_owned());
            }
            if right { Ok(()) } else { Err(format!("{value:?}, {kinds:?}")) }
        }
    }

    #[test]
    fn the_compatibility_kit_passes() {
        let shared = std::env::var_os("WEIR_SHARED")
            .unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared").into());
        let folder = std::path::Path::new(&shared).join("vectors/cesql_tck");
        let Ok(files) = std::fs::read_dir(&folder) else {
            println!("skipped: no compatibility kit in {}", folder.display());
            return;
        };
        let (mut count, mut wrong) = (0, Vec::new());
        for file in files {
            let path = file.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "yaml") {
                continue;
            }
            for case in read(&std::fs::read_to_string(&path).unwrap()) {
                count += 1;
                if let Err(found) = case.run() {
                    wrong.push(format!("{}: {case:?}: {found}", path.display()));
                }
            }
        }
        println!("{count} cases of the compatibility kit");
        assert!(count > 0 && wrong.is_empty(), "{} of {count} wrong\n{}", wrong.len(), wrong.join("\n"));
    }
}

/// Random expressions as text, mostly well-formed and of names the event has.
fn expressions() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        prop::sample::select(vec!["id", "temp", "level", "ok", "missing", "city", "least", "word"])
            .prop_map(str::to_owned),
        any::<i32>().prop_map(|number| number.to_string()),
        (-3..12_i32).prop_map(|number| number.to_string()),
        r"'([a-z%_ é\\]|\\')?[a-z%_]{0,3}'",
        r#""([a-z%_ é\\]|\\")?[a-z%_']{0,3}""#,
        prop::sample::select(vec!["TRUE", "false", "EXISTS temp", "exists Missing"]).prop_map(str::to_owned),
    ];
    leaf.prop_recursive(6, 40, 4, |inner| {
        let operators =
            vec!["AND", "or", "XOR", "=", "!=", "<>", "<", "<=", ">", ">=", "+", "-", "*", "/", "%"];
        let names = vec![
            "ABS",
            "BOOL",
            "CONCAT",
            "CONCAT_WS",
            "INT",
            "IS_BOOL",
            "is_int",
            "LEFT",
            "LENGTH",
            "lower",
            "RIGHT",
            "STRING",
            "SUBSTRING",
            "TRIM",
            "UPPER",
            "NOSUCH",
        ];
        let list = prop::collection::vec(inner.clone(), 1..4).prop_map(|list| list.join(" , "));
        prop_oneof![
            (inner.clone(), prop::sample::select(operators), inner.clone())
                .prop_map(|(left, operator, right)| format!("{left} {operator} {right}")),
            inner.clone().prop_map(|inner| format!("({inner})")),
            inner.clone().prop_map(|inner| format!("NOT {inner}")),
            inner.clone().prop_map(|inner| format!("-{inner}")),
            (inner.clone(), any::<bool>(), r"'[a-z%_\\]{0,4}[a-z%_]'").prop_map(|(operand, not, pattern)| {
                format!("{operand} {}LIKE {pattern}", if not { "NOT " } else { "" })
            }),
            (inner, any::<bool>(), list.clone()).prop_map(|(operand, not, list)| format!(
                "{operand} {}IN ({list})",
                if not { "NOT " } else { "" }
            )),
            (prop::sample::select(names), list).prop_map(|(name, list)| format!("{name}({list})")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn the_normal_form_parses_to_the_same(text in expressions()) {
        let Ok(expression) = Expression::parse(&text) else {
            return Err(TestCaseError::reject("too deep"));
        };
        let normal = expression.to_string();
        let again = Expression::parse(&normal).map_err(|error| TestCaseError::fail(format!("{normal}: {error}")))?;
        prop_assert_eq!(&again.to_string(), &normal);
        let event = event();
        prop_assert_eq!(again.evaluate(&event), expression.evaluate(&event));
    }

    #[test]
    fn both_modes_agree(text in expressions()) {
        let Ok(expression) = Expression::parse(&text) else {
            return Err(TestCaseError::reject("too deep"));
        };
        let event = event();
        let (value, errors) = expression.evaluate(&event);
        prop_assert_eq!(expression.matches(&event), errors.is_empty() && value == Value::Boolean(true));
    }

    #[test]
    fn no_text_brings_it_down(text in r#"([a-c_ 0-9"'\\%()=<>!,+*/-]|NOT |AND |LIKE |IN |EXISTS |LENGTH\(|\PC){0,40}"#) {
        if let Ok(expression) = Expression::parse(&text) {
            let _ = expression.evaluate(&event());
        }
    }
}
