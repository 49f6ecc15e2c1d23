//! Where fuzzing starts: a few inputs for each target that between them have every construct, made by ourselves,
//! and the words that mutations insert.

use std::borrow::Cow;

use weir_event::flow::{History, Position, Time};
use weir_event::{
    Data, Event, Form, Timestamp, Value, frame as frames, http, json as json_format, proto as proto_format,
};

/// An event with nothing optional.
pub fn plain() -> Event<'static> {
    Event::new("1", "/s", "t").expect("allowed")
}

/// An event with an attribute of every type, and text beyond ASCII.
pub fn rich() -> Event<'static> {
    let mut event =
        Event::new("a-1", "https://example.com/stations/7", "com.example.reading.v1").expect("allowed");
    let time = Timestamp::parse("2018-04-05T17:31:00.5+02:00").expect("a time");
    for (name, value) in [
        ("subject", Value::from("hall")),
        ("time", Value::from(time)),
        ("datacontenttype", Value::from("application/json")),
        ("dataschema", Value::from("https://example.com/schema")),
        ("partitionkey", Value::from("key-7")),
        ("temp", Value::from(21)),
        ("level", Value::from("7")),
        ("least", Value::from(i32::MIN)),
        ("ok", Value::from(true)),
        ("word", Value::from("TRUE")),
        ("city", Value::from("Zürich 漢字 100% \"q\" a_b\\")),
        ("raw", Value::Binary(Cow::Borrowed(b"\x00\xff\x7f"))),
        ("link", Value::Uri(Cow::Borrowed("https://example.com/a?b#c"))),
        ("near", Value::UriRef(Cow::Borrowed("../a"))),
    ] {
        event.set(name, value).expect("allowed");
    }
    event.set_data(Some(Data::text("{\"temp\": 21, \"list\": [1, null, \"x\\u00e9\"]}")));
    event
}

fn events() -> Vec<Event<'static>> {
    let with_data = |content_type: Option<&'static str>, data| {
        let mut event = plain();
        if let Some(content_type) = content_type {
            event.set("datacontenttype", content_type).expect("allowed");
        }
        event.set_data(Some(data));
        event
    };
    let any = Data {
        bytes: Cow::Borrowed(b"\x0a\x01x"),
        form: Form::Proto { type_url: Cow::Borrowed("type.googleapis.com/example.Reading") },
    };
    vec![
        plain(),
        rich(),
        with_data(None, Data::text("null")),
        with_data(Some("text/plain"), Data::text("line\nline \u{1F30A}")),
        with_data(Some("application/octet-stream"), Data::binary(&b"\x00\x01\xfe\xff"[..])),
        with_data(Some("application/json"), Data::binary(&b" {\n}"[..])),
        with_data(Some("application/protobuf"), any),
        with_data(Some("text/plain"), Data::text("")),
    ]
}

fn encoded(encode: impl Fn(&Event<'_>, &mut Vec<u8>)) -> Vec<Vec<u8>> {
    let encoded = |event: &Event<'_>| {
        let mut out = Vec::new();
        encode(event, &mut out);
        out
    };
    events().iter().map(encoded).collect()
}

fn owned(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// For the target of the same name.
pub fn json() -> Vec<Vec<u8>> {
    let mut seeds = encoded(|event, out| json_format::encode_document(event, None, out));
    seeds.extend(owned(&[
        r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"a":[1,2.5e3,{"b":null}]} }"#,
        r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data_base64":"AP8=","subject":null}"#,
        r#"{"specversion":"1.0","id":"\u00e9\ud83c\udf0a","source":"a:b","type":"t","data":"\n\"\\","datacontenttype":"text/plain"}"#,
        r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","flowposition":"41","flowtime":"1970-01-01T00:00:01.5Z","n":-5}"#,
    ]));
    seeds
}

/// For the target of the same name.
pub fn json_batch() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    json_format::batch_start(&mut all);
    for event in events() {
        json_format::batch_push(&event, None, &mut all);
    }
    json_format::batch_end(&mut all);
    let one = json().into_iter().map(|event| [&b"["[..], &event, b"]"].concat());
    one.chain([all, b"[]".to_vec(), b" [ ] ".to_vec()]).collect()
}

/// For the target of the same name.
pub fn proto() -> Vec<Vec<u8>> {
    let mut seeds = encoded(proto_format::encode);
    let mut foreign = encoded(proto_format::encode).swap_remove(0);
    foreign.extend(b"\x52\x03abc\xf8\x3f\x05"); // Fields 10 and 1023, unknown to us.
    seeds.push(foreign);
    let mut other = plain();
    other.set_extra(Some(Cow::Borrowed(b"\x08\x01")));
    let mut out = Vec::new();
    proto_format::encode(&other, &mut out);
    seeds.push(out);
    seeds
}

/// For the target of the same name.
pub fn proto_batch() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for event in events() {
        proto_format::push(&event, &mut all);
    }
    let one = proto().into_iter().map(|event| {
        let mut out = Vec::new();
        proto_format::push_encoded(&event, &mut out);
        out
    });
    one.chain([all, Vec::new()]).collect()
}

/// For the target of the same name.
pub fn http_binary() -> Vec<Vec<u8>> {
    let mut seeds = encoded(|event, out| {
        http::encode_binary(event, None, |name, value| out.extend(format!("{name}: {value}\n").bytes()));
        out.push(b'\n');
        out.extend(event.data().map_or(&b""[..], |data| &data.bytes));
    });
    seeds.extend(owned(&[
        "CE-ID: \"a%20\\\"b\"\nce-source: /%C3%A9\nCe-Type: t\nce-specversion: 1.0\naccept: */*;q=0.5\n\nbody",
        "content-type: application/cloudevents+json; charset=utf-8\n\n{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"/s\",\"type\":\"t\"}",
        "content-type: application/cloudevents-batch+json\naccept: application/x-ndjson, application/*;q=0\n\n[]",
        "content-type: application/cloudevents+protobuf\n\n\n\x01a",
    ]));
    seeds
}

/// For the target of the same name.
pub fn frame() -> Vec<Vec<u8>> {
    let mut body = Vec::new();
    for event in events() {
        proto_format::push(&event, &mut body);
    }
    let head = frames::Head {
        stream: "weather.us.ny",
        history: History(0x0123_4567_89ab_cdef),
        first: Position(41),
        count: 8,
        time: Time(1_767_225_600_000),
        encoding: frames::EVENTS,
    };
    let mut run = vec![7];
    frames::push_run(&head, &body, &mut run).expect("fits");
    let mut others = vec![3];
    for (kind, payload) in [
        (frames::HEARTBEAT, r#"{"head":41,"history":"0123456789abcdef","at":40}"#),
        (frames::NOTICE, r#"{"skipped":{"from":2,"to":9},"reason":"retention"}"#),
        (200, "unknown"),
        (frames::STATE, r#"{"state":"requested"}"#),
        (frames::END, r#"{"reason":"revoked"}"#),
    ] {
        frames::push(kind, payload.as_bytes(), &mut others).expect("fits");
    }
    let both = [&run[..], &others[1..], &run[1..]].concat();
    vec![run, others, both]
}

/// For the target of the same name.
pub fn sql() -> Vec<Vec<u8>> {
    owned(&[
        "type = 'com.example.reading.v1' AND temp > 5",
        "NOT EXISTS missing OR (subject LIKE 'h%\\__' XOR ok)",
        "temp NOT IN (1, '21', TRUE, level) AND city NOT LIKE \"%_rich%\"",
        "-temp * (level + 3) / 2 % 7 - 1 <> --5",
        "CONCAT_WS('-', LEFT(city, 3), RIGHT(city, 2), SUBSTRING(city, -4, 2), UPPER(id)) != ''",
        "ABS(least) = INT('7') OR BOOL('true') AND LENGTH(TRIM(' a ')) >= 1",
        "missing / 0 = 1 OR IS_INT(raw) OR LOWER(STRING(time)) < 5",
        "NOSUCH('it''s', \"\\\"\")",
    ])
}

/// For the target of the same name.
pub fn filter() -> Vec<Vec<u8>> {
    owned(&[
        "[]",
        r#"[{"exact":{"type":"com.example.reading.v1","subject":"hall"}}]"#,
        r#"[{"prefix":{"type":"com."}},{"suffix":{"source":"/7"}},{"not":{"exact":{"missing":"x"}}}]"#,
        r#"[{"any":[{"all":[{"exact":{"temp":"21"}},{"sql":"ok"}]},{"cesql":"temp > 5 AND city LIKE '%r_ch%'"}]}]"#,
        r#"[{"not":{"not":{"any":[{"exact":{"id":"1"}}]}}},{"exakt":{"id":5}}]"#,
    ])
}

/// Words of JSON events.
pub const JSON_TOKENS: &[&str] = &[
    "\"",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "null",
    "true",
    "-1",
    "2147483648",
    "1e999",
    "0.5",
    "\\u0000",
    "\\ud800",
    "\\n",
    "\"id\":",
    "\"time\":\"2018-04-05T17:31:00Z\"",
    "\"subject\":\"s\"",
    "\"datacontenttype\":\"text/plain\"",
    "\"data\":",
    "\"data_base64\":\"",
    "\"flowposition\":\"1\"",
    "\"flowtime\":\"1970-01-01T00:00:01Z\"",
    "\u{feff}",
    "\u{85}",
    "\r\n",
    "=",
];

/// Tags and lengths of protobuf events.
pub const PROTO_TOKENS: &[&str] = &[
    "\n\u{1}a",
    "\u{12}\u{1}b",
    "\u{1a}\u{3}1.0",
    "\"\u{1}t",
    "*\u{7}\n\u{1}n\u{12}\u{2}\u{10}\u{1}",
    "2\u{1}d",
    ":\u{1}d",
    "B\u{2}\n\u{0}",
    "\u{0}",
    "\u{7f}",
    "subject",
    "time",
    "datacontenttype",
    "flowposition",
    "flowtime",
    "\u{3e8}",
    "2018-04-05T17:31:00+02:00",
];

/// Words of HTTP headers.
pub const HTTP_TOKENS: &[&str] = &[
    "\n",
    "\n\n",
    ": ",
    "ce-",
    "CE-Id: ",
    "ce-time: 2018-04-05T17:31:00Z",
    "ce-subject: ",
    "ce-datacontenttype: x/y",
    "content-type: ",
    "application/cloudevents+json",
    "application/cloudevents-batch+protobuf",
    "; charset=utf-8",
    "%20",
    "%C3%A9",
    "%",
    "%FF",
    "\"",
    "\\\"",
    "ce-flowposition: 1",
    "ce-flowtime: 1970-01-01T00:00:01Z",
    ";q=0.1",
    "*/*",
];

/// Lengths and kinds of frames.
pub const FRAME_TOKENS: &[&str] = &[
    "\0\0\0\u{1}",
    "\0\0\0\u{0}",
    "\0\u{7f}\u{7f}\u{7f}",
    "\u{1}",
    "\u{2}{}",
    "\u{4}",
    "\u{d}weather.us.ny",
    "\0\0\0\0\0\0\0\u{1}",
    "{\"head\":1}",
    "\u{7f}",
];

/// Words of expressions.
pub const SQL_TOKENS: &[&str] = &[
    " AND ",
    " OR ",
    " XOR ",
    "NOT ",
    " LIKE '",
    " IN (",
    "EXISTS ",
    "(",
    ")",
    ",",
    "'",
    "\"",
    "\\",
    "%",
    "_",
    "=",
    "!=",
    "<>",
    "<=",
    ">",
    "+",
    "-",
    "*",
    "/",
    "TRUE",
    "false",
    "0",
    "-2147483648",
    "2147483647",
    "9",
    "temp",
    "level",
    "ok",
    "city",
    "missing",
    "least",
    "raw",
    "LENGTH(",
    "CONCAT(",
    "CONCAT_WS(",
    "SUBSTRING(",
    "LEFT(",
    "RIGHT(",
    "UPPER(",
    "TRIM(",
    "ABS(",
    "INT(",
    "BOOL(",
    "STRING(",
    "IS_INT(",
    "é",
    "漢",
    " ",
    "\n",
    "'%'",
    "1 / 0",
];

/// Words of filters.
pub const FILTER_TOKENS: &[&str] = &[
    "{\"exact\":",
    "{\"prefix\":",
    "{\"suffix\":",
    "{\"all\":[",
    "{\"any\":[",
    "{\"not\":",
    "{\"sql\":\"",
    "\"",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "temp",
    "missing",
    "type",
    "Type",
    "~",
    "/",
    "TRUE",
    " AND ",
    "LIKE '%'",
    "null",
    "1",
    "\\n",
    "\\u0000",
    "'",
];
