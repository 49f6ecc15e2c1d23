use std::collections::HashSet;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn event() -> Event<'static> {
    let mut event = Event::new("a-1", "https://example.com/stations/7", "com.example.reading.v1").unwrap();
    for (name, value) in [
        ("subject", value::Value::from("hall")),
        ("time", value::Value::from("2018-04-26T14:48:09+02:00")),
        ("temp", value::Value::from(21)),
        ("ok", value::Value::from(true)),
        ("raw", value::Value::Binary(b"\x00\xff"[..].into())),
    ] {
        event.set(name, value).unwrap();
    }
    event
}

fn filter(json: Json) -> Filter {
    Filter::parse(&json).unwrap_or_else(|error| panic!("{json}: {error}"))
}

#[track_caller]
fn check(json: Json, expected: bool) {
    let filter = filter(json.clone());
    assert_eq!(filter.matches(&event()), expected, "{json}");
    assert_eq!(filter.to_json(), json);
}

#[test]
fn no_filter_lets_everything_through() {
    check(json!([]), true);
    assert!(Filter::everything().is_everything() && filter(json!([])).is_everything());
    assert!(!filter(json!([{"exact": {"id": "a-1"}}])).is_everything());
    assert_eq!(Filter::default(), filter(json!([])));
}

#[test]
fn comparisons() {
    check(json!([{"exact": {"type": "com.example.reading.v1"}}]), true);
    check(json!([{"exact": {"type": "com.example.reading.v1", "subject": "hall"}}]), true);
    check(json!([{"exact": {"type": "com.example.reading.v1", "subject": "Hall"}}]), false);
    check(json!([{"exact": {"type": "com.example.reading.v"}}]), false);
    check(json!([{"prefix": {"type": "com.example."}}]), true);
    check(json!([{"prefix": {"type": "example."}}]), false);
    check(json!([{"prefix": {"source": "https://", "subject": "hall"}}]), true);
    check(json!([{"suffix": {"type": ".v1", "id": "1"}}]), true);
    check(json!([{"suffix": {"type": ".v1", "id": "2"}}]), false);
    check(json!([{"exact": {"specversion": "1.0"}}]), true);
}

#[test]
fn comparisons_see_the_canonical_text() {
    check(json!([{"exact": {"temp": "21", "ok": "true", "raw": "AP8="}}]), true);
    check(json!([{"prefix": {"time": "2018-04-26"}}, {"suffix": {"time": "+02:00"}}]), true);
    check(json!([{"exact": {"temp": "+21"}}]), false);
}

#[test]
fn an_attribute_that_is_not_there_equals_nothing() {
    for dialect in ["exact", "prefix", "suffix"] {
        check(json!([{dialect: {"missing": "x"}}]), false);
        check(json!([{"not": {dialect: {"missing": "x"}}}]), true);
        check(json!([{dialect: {"missing": "x", "id": "a-1"}}]), false);
    }
}

#[test]
fn groups() {
    let yes = json!({"exact": {"id": "a-1"}});
    let no = json!({"exact": {"id": "a-2"}});
    check(json!([yes, yes]), true);
    check(json!([yes, no]), false);
    check(json!([{"all": [yes, yes]}]), true);
    check(json!([{"all": [yes, no]}]), false);
    check(json!([{"any": [no, yes]}]), true);
    check(json!([{"any": [no]}]), false);
    check(json!([{"not": no}]), true);
    check(json!([{"not": {"not": yes}}]), true);
    check(json!([{"not": {"all": [yes, {"any": [no, {"not": yes}]}]}}]), true);
}

#[test]
fn expressions() {
    for dialect in ["sql", "cesql"] {
        check(json!([{dialect: "temp > 20 AND subject = 'hall'"}]), true);
        check(json!([{dialect: "temp > 21"}]), false);
        check(json!([{dialect: "ok"}]), true);
        // No Boolean, or an error.
        check(json!([{dialect: "temp"}]), false);
        check(json!([{dialect: "'true'"}]), false);
        check(json!([{dialect: "missing = 'x' OR TRUE"}]), false);
        check(json!([{"not": {dialect: "missing = 'x'"}}]), true);
    }
}

#[test]
fn both_of_two() {
    let (reading, hot) = (filter(json!([{"suffix": {"type": ".v1"}}])), Filter::sql("temp > 30").unwrap());
    assert!(reading.matches(&event()) && !reading.and(&hot).matches(&event()));
    assert_eq!(reading.and(&hot), hot.and(&reading));
    assert_eq!(reading.and(&Filter::everything()), reading);
    assert_eq!(reading.and(&hot).to_json(), json!([{"suffix": {"type": ".v1"}}, {"sql": "temp > 30"}]));
    assert_eq!(filter(reading.and(&hot).to_json()), reading.and(&hot));
}

#[test]
fn what_means_the_same_is_equal_and_kept_as_given() {
    let same = [
        json!([{"exact": {"type": "t", "subject": "s"}}, {"any": [{"sql": "a = 1"}, {"prefix": {"id": "x"}}]}]),
        json!([{"any": [{"prefix": {"id": "x"}}, {"cesql": "(A)=1"}]}, {"exact": {"subject": "s", "type": "t"}}]),
        json!([{"all": [
            {"exact": {"type": "t"}},
            {"all": [{"exact": {"subject": "s"}}]},
            {"any": [{"any": [{"prefix": {"id": "x"}}]}, {"sql": "a = 1"}, {"sql": "a=1"}]},
            {"not": {"not": {"exact": {"type": "t"}}}},
        ]}]),
    ];
    let set: HashSet<_> = same.iter().cloned().map(filter).collect();
    assert_eq!(set.len(), 1);
    for json in same {
        assert_eq!(filter(json.clone()).to_json(), json);
    }
    let different = [
        json!([]),
        json!([{"exact": {"id": "x"}}]),
        json!([{"prefix": {"id": "x"}}]),
        json!([{"exact": {"type": "x"}}]),
        json!([{"not": {"exact": {"id": "x"}}}]),
        json!([{"sql": "id = 'x'"}]),
        json!([{"any": [{"exact": {"id": "x"}}, {"exact": {"id": "y"}}]}]),
        json!([{"all": [{"exact": {"id": "x"}}, {"exact": {"id": "y"}}]}]),
    ];
    let count = different.len();
    assert_eq!(different.into_iter().map(filter).collect::<HashSet<_>>().len(), count);
}

#[test]
fn errors_say_where_and_what() {
    let cases = [
        (
            json!({"sql": "TRUE"}),
            "",
            "expected an array, found an object; put the filter into an array: [ … ]",
        ),
        (json!(null), "", "expected an array, found null"),
        (
            json!(["type = 'x'"]),
            "/0",
            "expected an object such as {\"exact\": {\"type\": \"…\"}}, found \"type = 'x'\"; \
             an expression is written {\"sql\": \"…\"}",
        ),
        (
            json!([{}]),
            "/0",
            "expected an object with one member, the name of a dialect; found an empty object; \
             for instance {\"exact\": {\"type\": \"…\"}}",
        ),
        (
            json!([{"sql": "TRUE"}, {"exact": {"id": "x"}, "prefix": {"id": "x"}}]),
            "/1",
            "expected an object with one member, the name of a dialect; found 2 members; \
             write one object for each; all of an array must be true",
        ),
        (json!([{"exakt": {}}]), "/0/exakt", "\"exakt\" is no dialect; did you mean \"exact\"?"),
        (json!([{"SQL": "TRUE"}]), "/0/SQL", "\"SQL\" is no dialect; did you mean \"sql\"?"),
        (
            json!([{"type": "com.example"}]),
            "/0/type",
            "\"type\" is no dialect; did you mean {\"exact\":{\"type\":\"com.example\"}}?",
        ),
        (
            json!([{"https://example.com/regex~1": 1}]),
            "/0/https:~1~1example.com~1regex~01",
            "\"https://example.com/regex~1\" is no dialect; \
             known are exact, prefix, suffix, all, any, not and sql",
        ),
        (
            json!([{"exact": ["id"]}]),
            "/0/exact",
            "expected an object of attributes and texts, found an array",
        ),
        (json!([{"exact": {}}]), "/0/exact", "expected at least one attribute, found none"),
        (json!([{"exact": {"id": 5}}]), "/0/exact/id", "expected a string, found 5; write \"5\""),
        (
            json!([{"prefix": {"id": ""}}]),
            "/0/prefix/id",
            "expected a string that is not empty, found \"\"; whether an attribute is there: \
             {\"sql\": \"EXISTS id\"}",
        ),
        (
            json!([{"suffix": {"Subject": "x"}}]),
            "/0/suffix/Subject",
            "the attribute name \"Subject\" is not a valid name; expected only lower-case letters a-z and \
             digits 0-9; did you mean \"subject\"?",
        ),
        (json!([{"all": []}]), "/0/all", "expected at least one filter, found an empty array"),
        (json!([{"any": {"sql": "TRUE"}}]), "/0/any", "expected an array of filters, found an object"),
        (
            json!([{"any": [{"sql": "TRUE"}, {"not": [{"sql": "TRUE"}]}]}]),
            "/0/any/1/not",
            "expected an object such as {\"exact\": {\"type\": \"…\"}}, found an array",
        ),
        (json!([{"sql": 5}]), "/0/sql", "expected a CESQL expression, found 5"),
        (
            json!([{"not": {"sql": "type == 'x'"}}]),
            "/0/not/sql",
            "line 1, column 7: expected an expression, found `=`; equality is written with one =",
        ),
        (
            json!([{"cesql": "LENGHT(id) > 1"}]),
            "/0/cesql",
            "line 1, column 1: expected a function that exists, found `LENGHT` with 1 argument; \
             did you mean LENGTH(x)?",
        ),
    ];
    for (json, pointer, message) in cases {
        let error = Filter::parse(&json).expect_err(&json.to_string());
        assert_eq!((error.pointer(), error.message()), (pointer, message));
        assert_eq!(error.is_unknown_dialect(), message.contains("is no dialect"));
        let at = if pointer.is_empty() { message.to_owned() } else { format!("{pointer}: {message}") };
        assert_eq!(error.to_string(), at);
    }
    for name in ["x".repeat(65), "a\nb".to_owned()] {
        assert_eq!(Filter::parse(&json!([{&name: 1}])).unwrap_err().pointer(), "/0");
        assert_eq!(Filter::parse(&json!([{"exact": {&name: 1}}])).unwrap_err().pointer(), "/0/exact");
    }
    let error = Filter::parse(&json!([{"sql": "a\n b"}])).unwrap_err();
    assert_eq!(error.sql().map(|error| (error.line, error.column, error.offset)), Some((2, 2, 3)));
}

#[test]
fn limits() {
    let nested = |depth: usize| (0..depth).fold(json!({"sql": "TRUE"}), |inner, _| json!({"not": inner}));
    assert!(Filter::parse(&json!([nested(DEPTH_MAX)])).is_ok());
    let error = Filter::parse(&json!([nested(DEPTH_MAX + 1)])).unwrap_err();
    assert_eq!(error.message(), "nested deeper than 32 levels");

    let many = |count: usize| Json::Array(vec![json!({"exact": {"id": "x"}}); count]);
    assert!(Filter::parse(&many(PARTS_MAX / 2)).is_ok());
    let error = Filter::parse(&many(PARTS_MAX / 2 + 1)).unwrap_err();
    assert_eq!((error.pointer(), error.message()), ("/500", "more than 1000 parts in one filter"));

    let long = |bytes: usize| json!([{"exact": {"id": "x".repeat(bytes)}}]);
    assert!(Filter::parse(&long(BYTES_MAX)).is_ok());
    assert!(Filter::parse(&long(BYTES_MAX + 1)).unwrap_err().message().starts_with("more than 65536 bytes"));
}

/// An event whose texts are of few letters, so that random filters often match.
fn events() -> impl Strategy<Value = Event<'static>> {
    let text = "[ab%_']{1,5}";
    (text, "[ab]{1,5}", text, prop::option::of(text), prop::option::of(0..100_i32)).prop_map(
        |(id, source, ty, subject, number)| {
            let mut event = Event::new(id, source, ty).unwrap();
            if let Some(subject) = subject {
                event.set("subject", subject).unwrap();
            }
            if let Some(number) = number {
                event.set("number", number).unwrap();
            }
            event
        },
    )
}

fn filters() -> impl Strategy<Value = Json> {
    let attribute = prop::sample::select(vec!["id", "source", "type", "subject", "number", "missing"]);
    let dialect = prop::sample::select(vec!["exact", "prefix", "suffix"]);
    let leaf = prop_oneof![
        (dialect, prop::collection::btree_map(attribute.clone(), "[ab1%_]{1,2}", 1..3))
            .prop_map(|(dialect, pairs)| json!({dialect: pairs})),
        (attribute, "[ab1]{1,2}").prop_map(|(name, text)| json!({"sql": format!("{name} LIKE '{text}%'")})),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(|list| json!({"all": list})),
            prop::collection::vec(inner.clone(), 1..4).prop_map(|list| json!({"any": list})),
            inner.prop_map(|filter| json!({"not": filter})),
        ]
    })
}

/// What a filter means, straight from the JSON.
fn reference(filter: &Json, event: &Event<'_>) -> bool {
    let (dialect, body) = filter.as_object().unwrap().iter().next().unwrap();
    let list = || body.as_array().unwrap().iter();
    let compare = |holds: fn(&str, &str) -> bool| {
        body.as_object().unwrap().iter().all(|(name, text)| {
            event.get(name).is_some_and(|value| holds(&value.text(), text.as_str().unwrap()))
        })
    };
    match dialect.as_str() {
        "exact" => compare(|value, text| value == text),
        "prefix" => compare(|value, text| value.starts_with(text)),
        "suffix" => compare(|value, text| value.ends_with(text)),
        "all" => list().all(|filter| reference(filter, event)),
        "any" => list().any(|filter| reference(filter, event)),
        "not" => !reference(body, event),
        _ => Expression::parse(body.as_str().unwrap()).unwrap().matches(event),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn the_canonical_form_means_what_was_given(
        given in prop::collection::vec(filters(), 0..4),
        events in prop::collection::vec(events(), 1..8),
    ) {
        let filter = filter(Json::Array(given.clone()));
        for event in &events {
            let expected = given.iter().all(|filter| reference(filter, event));
            prop_assert_eq!(filter.matches(event), expected);
        }
        let mut turned = given;
        turned.reverse();
        turned.extend(turned.clone());
        prop_assert_eq!(&super::tests::filter(Json::Array(turned)), &filter);
    }

    #[test]
    fn comparisons_equal_their_expressions(
        event in events(),
        name in prop::sample::select(vec!["id", "source", "type", "subject", "number", "missing"]),
        text in "[ab1%_']{1,2}",
    ) {
        let literal = text.replace('\'', "\\'");
        let pattern = literal.replace('%', "\\%").replace('_', "\\_");
        for (dialect, expression) in [
            ("exact", format!("{name} = '{literal}'")),
            ("prefix", format!("{name} LIKE '{pattern}%'")),
            ("suffix", format!("{name} LIKE '%{pattern}'")),
        ] {
            let plain = filter(json!([{dialect: {name: text}}]));
            prop_assert_eq!(plain.matches(&event), Filter::sql(&expression).unwrap().matches(&event));
        }
    }

    #[test]
    fn no_json_brings_it_down(
        dialect in prop::sample::select(DIALECTS.to_vec()),
        text in r#"(["{}\[\]:,a-c '=()%0-9]|exact|not|any|sql){0,20}"#,
    ) {
        for text in [&*text, &format!("[{{\"{dialect}\":{text}}}]"), &format!("[{{\"{dialect}\":[{text}]}}]")] {
            if let Ok(json) = serde_json::from_str::<Json>(text)
                && let Ok(filter) = Filter::parse(&json)
            {
                let _ = filter.matches(&event());
                prop_assert_eq!(Filter::parse(&filter.to_json()).unwrap(), filter);
            }
        }
    }
}

/// `docs/filters.md` says what is so: its filters parse, its tables are true of its event.
mod page {
    use super::*;

    fn read() -> String {
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/filters.md")).unwrap()
    }

    fn event() -> Event<'static> {
        let mut event = Event::new("17", "https://example.com/stations/7", "com.example.reading.v1").unwrap();
        event.set("subject", "hall").unwrap();
        event.set("time", "2026-03-01T12:00:00Z").unwrap();
        event.set("temp", 21).unwrap();
        event.set("level", "7").unwrap();
        event.set("alarm", false).unwrap();
        event
    }

    /// The rows of all tables with such a head, as cells without the backquotes around them.
    fn rows(page: &str, head: &str) -> Vec<Vec<String>> {
        let tables = page.split("\n\n").filter(|table| table.starts_with(head));
        let lines = tables.flat_map(|table| table.lines().skip(2));
        let cell = |cell: &str| {
            let cell = cell.trim();
            let within = |fences: (&str, &str)| cell.strip_prefix(fences.0)?.strip_suffix(fences.1);
            within(("`` ", " ``")).or_else(|| within(("`", "`"))).unwrap_or(cell).to_owned()
        };
        let rows: Vec<Vec<_>> =
            lines.map(|line| line.trim_matches('|').split(" | ").map(cell).collect()).collect();
        assert!(!rows.is_empty(), "{head}");
        rows
    }

    #[test]
    fn its_filters_parse() {
        let page = read();
        let blocks: Vec<_> =
            page.split("```json\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
        assert_eq!(blocks.len(), 6);
        for block in blocks {
            filter(serde_json::from_str(block).unwrap());
        }
    }

    #[test]
    fn its_tables_are_true() {
        let page = read();
        for row in rows(&page, "| filter | this event passes |") {
            let filter = filter(json!([serde_json::from_str::<Json>(&row[0]).unwrap()]));
            assert_eq!(filter.matches(&event()), row[1] == "yes", "{row:?}");
        }
        for head in
            ["| expression | yields | |", "| expression | yields | error |", "| expression | yields |\n"]
        {
            for row in rows(&page, head) {
                let (expression, event) = (Expression::parse(&row[0]).unwrap(), event());
                let (value, errors) = expression.evaluate(&event);
                assert_eq!(value.to_string(), row[1], "{row:?}");
                let kinds: Vec<_> = errors.iter().map(|error| error.kind().name()).collect();
                let expected = if head.contains("error") { vec![&*row[2]] } else { vec![] };
                assert_eq!(kinds, expected, "{row:?}");
            }
        }
        for row in rows(&page, "| given | answer |") {
            let error = Filter::parse(&serde_json::from_str(&row[0]).unwrap()).unwrap_err();
            assert_eq!(error.to_string(), row[1]);
        }
    }
}
