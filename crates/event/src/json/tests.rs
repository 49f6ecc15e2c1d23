use proptest::prelude::*;

use super::*;
use crate::error::Kind;
use crate::flow::{Position, Time};

const HEAD: &str = r#""specversion":"1.0","id":"1","source":"/a","type":"t""#;

fn event(members: &str) -> String {
    format!("{{{HEAD}{members}}}")
}

fn line(event: &Event<'_>) -> String {
    let mut out = Vec::new();
    encode(event, None, &mut out);
    assert!(!out.contains(&b'\n') && !out.contains(&b'\r'));
    String::from_utf8(out).unwrap()
}

fn bytes<'a>(event: &'a Event<'_>) -> Option<&'a [u8]> {
    event.data().map(|data| &*data.bytes)
}

#[test]
fn an_event_is_read_and_written_back() {
    let text = event(
        r#","time":"2018-04-05T17:31:00.5+02:00","n":-7,"yes":true,"dataschema":"urn:x","datacontenttype":"application/json","e":"a\"b\\c\u00e9😀","data":{"b":1, "a":[1.0]}"#,
    );
    let event = decode(text.as_bytes()).unwrap();
    assert_eq!(event.get("n"), Some(Value::Integer(-7)));
    assert_eq!(event.get("e"), Some(Value::from("a\"b\\cé😀")));
    assert_eq!(event.time().unwrap().text(), "2018-04-05T17:31:00.5+02:00");
    assert_eq!(bytes(&event), Some(&br#"{"b":1, "a":[1.0]}"#[..]));
    assert_eq!(line(&event), text.replace("\\u00e9", "é"));
}

#[test]
fn data_keeps_its_bytes() {
    for (members, expected) in [
        (r#","data":null"#, Some("null")),
        (r#","data":  {"a" : 1.0}  "#, Some(r#"{"a" : 1.0}"#)),
        (r#","data":"a\u0062""#, Some(r#""a\u0062""#)),
        (r#","data":"\ud800""#, Some(r#""\ud800""#)),
        (r#","datacontenttype":"text/json","data":1E400"#, Some("1E400")),
        (r#","data":"a\u0062","datacontenttype":"text/plain""#, Some("ab")),
        (r#","datacontenttype":"text/plain","data":"""#, Some("")),
        (r#","data_base64":"YQ==""#, Some("a")),
        (r#","data_base64":null,"data":1"#, Some("1")),
        (r#","data_base64":"","datacontenttype":"text/plain""#, Some("")),
        ("", None),
        (r#","data_base64":null"#, None),
    ] {
        let text = event(members);
        let read = decode(text.as_bytes()).unwrap();
        assert_eq!(bytes(&read), expected.map(str::as_bytes), "{members}");
        let again = line(&read);
        assert_eq!(bytes(&decode(again.as_bytes()).unwrap()), bytes(&read), "{again}");
    }
}

#[test]
fn what_would_not_come_back_the_same_leaves_as_base64() {
    let raw = ",\"data\":";
    let string = ",\"data\":\"";
    let base64 = ",\"data_base64\":\"";
    for (content_type, data, expected) in [
        (None, Data::binary(&b"{}"[..]), raw),
        (None, Data::text("1"), raw),
        (None, Data::text(" 1"), base64),
        (None, Data::text("1\t"), base64),
        (None, Data::text("1 1"), base64),
        (None, Data::text("\u{feff}1"), base64),
        (None, Data::text("[1,\n2]"), base64),
        (None, Data::text("[1,\r2]"), base64),
        (None, Data::text("[1,\t2]"), raw),
        (None, Data::text(""), base64),
        (None, Data::binary(&b"\"\xff\""[..]), base64),
        (None, Data::text("[".repeat(200) + &"]".repeat(200)), base64),
        (Some("application/json"), Data::text("text"), base64),
        (Some("text/plain"), Data::text("a\nb\u{0}"), string),
        (Some("text/plain"), Data::text(""), string),
        (Some("text/plain"), Data::binary(&b"text"[..]), base64),
        (Some("text/plain"), Data { bytes: Cow::Borrowed(b"\xff"), form: Form::Text }, base64),
    ] {
        let mut event = Event::new("1", "/a", "t").unwrap();
        if let Some(content_type) = content_type {
            event.set("datacontenttype", content_type).unwrap();
        }
        event.set_data(Some(data));
        let text = line(&event);
        assert!(text.contains(expected), "{text}");
        assert_eq!(bytes(&decode(text.as_bytes()).unwrap()), bytes(&event), "{text}");
    }
    let mut event = Event::new("1", "/a", "t").unwrap();
    event.set_data(Some(Data::text("[1,\r\n2]")));
    let mut document = Vec::new();
    encode_document(&event, None, &mut document);
    assert!(document.ends_with(b",\"data\":[1,\r\n2]}"));
}

#[test]
fn null_is_absent_and_names_may_be_escaped() {
    let text = r#" { "\u0069d" : "1", "source":"/a","type":"t","specversion":"1.0","subject":null,"time":null, "x" : "y" } "#;
    let event = decode(text.as_bytes()).unwrap();
    assert_eq!((event.id(), event.subject(), event.time()), ("1", None, None));
    assert_eq!(event.attributes().count(), 1);
}

#[test]
fn bad_attributes_are_named() {
    for (members, name) in [
        (r#","Upper":1"#, "Upper"),
        (r#","a_b":1"#, "a_b"),
        (r#","":1"#, ""),
        (r#","x":1.0"#, "x"),
        (r#","x":1e2"#, "x"),
        (r#","x":2147483648"#, "x"),
        (r#","x":-2147483649"#, "x"),
        (r#","x":[]"#, "x"),
        (r#","x":{}"#, "x"),
        (r#","x":"\u0007""#, "x"),
        (r#","x":1,"x":2"#, "x"),
        (r#","x":null,"x":2"#, "x"),
        (r#","\u0078":1,"x":2"#, "x"),
        (r#","id":"2""#, "id"),
        (r#","subject":"""#, "subject"),
        (r#","subject":7"#, "subject"),
        (r#","time":"2018-04-05""#, "time"),
        (r#","dataschema":"x""#, "dataschema"),
        (r#","datacontenttype":"json""#, "datacontenttype"),
    ] {
        let error = decode(event(members).as_bytes()).unwrap_err();
        assert_eq!((error.kind(), error.attribute()), (Kind::Attribute, Some(name)), "{members}: {error}");
    }
    for (text, name) in [
        (r#"{"id":"1","source":"/a","type":"t"}"#, "specversion"),
        (r#"{"specversion":"1.0","source":"/a","type":"t"}"#, "id"),
        (r#"{"specversion":"1.0","id":null,"source":"/a","type":"t"}"#, "id"),
        (r#"{"specversion":"1.0","id":1,"source":"/a","type":"t"}"#, "id"),
        (r#"{"specversion":"1.0","id":"","source":"/a","type":"t"}"#, "id"),
        (r#"{"specversion":"1.0","id":"1","type":"t"}"#, "source"),
        (r#"{"specversion":"1.0","id":"1","source":"","type":"t"}"#, "source"),
        (r#"{"specversion":"1.0","id":"1","source":"/a"}"#, "type"),
        (r#"{"specversion":1.0,"id":"1","source":"/a","type":"t"}"#, "specversion"),
        (r#"{"specversion":1,"id":"1","source":"/a","type":"t"}"#, "specversion"),
    ] {
        let error = decode(text.as_bytes()).unwrap_err();
        assert_eq!((error.kind(), error.attribute()), (Kind::Attribute, Some(name)), "{text}: {error}");
    }
    let error = decode(br#"{"specversion":"0.3","id":"1","source":"/a","type":"t"}"#).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert_eq!(error.to_string(), "attribute \"specversion\" is \"0.3\"; expected \"1.0\"");
}

#[test]
fn malformed_texts_say_where() {
    for (text, offset) in [
        ("".to_string(), Some(0)),
        ("[]".into(), Some(0)),
        ("1".into(), Some(0)),
        ("{".into(), Some(1)),
        (event("").replace('}', ""), Some(event("").len() - 1)),
        (event("") + "x", Some(event("").len())),
        (event(","), Some(event(",").len() - 1)),
        (event(",\"x\":1 \"y\":2"), None),
        (event(",\"data\":{\"a\":}"), None),
        (event(",\"data\":1,\"data\":1"), None),
        (event(",\"data\":1,\"data_base64\":\"\""), None),
        (event(",\"data_base64\":\"\",\"data_base64\":\"\""), None),
        (event(",\"data_base64\":\"YQ\""), None),
        (event(",\"data_base64\":\"Y!==\""), None),
        (event(",\"data_base64\":1"), None),
        (event(",\"datacontenttype\":\"text/plain\",\"data\":1"), None),
        (event(",\"datacontenttype\":\"text/plain\",\"data\":null"), None),
        (event(",\"x\":\"\\ud800\""), None),
        (event(&format!(",\"data\":{}", "[".repeat(100_000))), None),
    ] {
        let error = decode(text.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), Kind::Malformed, "{text}: {error}");
        assert!(offset.is_none() || error.offset() == offset, "{text}: {error}");
    }
    let error = decode(b"{\"id\":\"\xff\"}").unwrap_err();
    assert_eq!((error.kind(), error.offset()), (Kind::Malformed, Some(7)));
}

#[test]
fn a_batch_is_read_in_order_up_to_its_limit() {
    let one = event("");
    assert_eq!(decode_batch(b" [ ] ", 0).unwrap(), []);
    assert_eq!(decode_batch(format!("[{one} , {one}]").as_bytes(), 2).unwrap().len(), 2);
    assert_eq!(decode_batch(format!("[{one},{one}]").as_bytes(), 1).unwrap_err().kind(), Kind::TooMany);
    for (text, index) in [
        (format!("[{one},{}]", event(",\"X\":1")), Some(1)),
        (format!("[{one},]"), Some(1)),
        (format!("[{one} {one}]"), None),
        (format!("[{one}]x"), None),
        (format!("[{one}"), None),
        (one.clone(), None),
        ("".into(), None),
    ] {
        let error = decode_batch(text.as_bytes(), 10).unwrap_err();
        assert_eq!(error.index(), index, "{text}: {error}");
    }
    assert_eq!(decode_batch(b"[\xff", 9).unwrap_err().kind(), Kind::Malformed);
    let mut out = Vec::new();
    let events = decode_batch(one.as_bytes(), 1).err().map(|_| decode(one.as_bytes()).unwrap());
    batch_start(&mut out);
    for event in events.iter().chain(&events) {
        batch_push(event, None, &mut out);
    }
    batch_end(&mut out);
    assert_eq!(out, format!("[{one},{one}]").into_bytes());
}

#[test]
fn a_stamp_is_written_when_given_and_is_no_attribute() {
    let plain = decode(br#"{"specversion":"1.0","id":"1","source":"/a","type":"t"}"#).unwrap();
    let stamp = Stamp { position: Position(41), time: Time(1_500_000_000_000) };
    let mut out = Vec::new();
    encode(&plain, Some(stamp), &mut out);
    let text = String::from_utf8(out.clone()).unwrap();
    assert!(text.ends_with(r#","flowposition":"41","flowtime":"2017-07-14T02:40:00.000Z"}"#), "{text}");
    let event = decode(&out).unwrap();
    assert_eq!((event.stamp(), event.attributes().count()), (Some(stamp), 0));
    assert_eq!(line(&event), line(&plain), "published again, it has no place");
    let junk = event_with(r#","flowposition":true,"flowtime":"now""#);
    assert_eq!(decode(junk.as_bytes()).unwrap().stamp(), None);
}

fn event_with(members: &str) -> String {
    event(members)
}

proptest! {
    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
        batch(&bytes).for_each(drop);
    }

    #[test]
    fn damaged_events_do_not_panic(at: usize, byte: u8, how in 0..3) {
        let mut bytes = event(r#","time":"2018-04-05T17:31:00.5+02:00","n":-7,"e":"\u00e9","data":{"b":[1]}"#).into_bytes();
        let at = at % bytes.len();
        match how {
            0 => bytes[at] = byte,
            1 => drop(bytes.remove(at)),
            _ => bytes.insert(at, byte),
        }
        if let Ok(event) = decode(&bytes) {
            let again = line(&event);
            prop_assert_eq!(decode(again.as_bytes()).unwrap(), event);
        }
    }

    /// What another writer writes is what is read.
    #[test]
    fn strings_pass_unchanged(text in ".*", quoted: bool) {
        let members = if quoted { format!(",\"datacontenttype\":\"text/plain\",\"data\":{}", serde_json::to_string(&text).unwrap()) }
            else { format!(",\"data\":{}", serde_json::to_string(&text).unwrap()) };
        let source = event(&members);
        let event = decode(source.as_bytes()).unwrap();
        let out = line(&event);
        let theirs: serde_json::Value = serde_json::from_str(&out).unwrap();
        prop_assert_eq!(theirs["data"].as_str(), Some(&*text));
    }
}
