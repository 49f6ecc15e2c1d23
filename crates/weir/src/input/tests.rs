use super::*;

fn shape(id: Option<&str>, time: Option<&str>) -> Shape {
    Shape {
        ty: "t.v1".into(),
        source: "/s".into(),
        id: id.map(|field| field.parse().unwrap()),
        time: time.map(|field| field.parse().unwrap()),
        subject: None,
        run: "run".into(),
    }
}

fn events(text: &'static str, format: Format, shape: Option<Shape>) -> Result<Vec<Event<'static>>, Failure> {
    let mut input = Input::new("x".into(), text.as_bytes(), format, shape)?;
    let mut events = Vec::new();
    while let Some(event) = input.next()? {
        events.push(event);
    }
    assert_eq!(input.taken().load(Ordering::Relaxed), text.len() as u64);
    Ok(events)
}

fn data<'a>(event: &'a Event<'_>) -> &'a str {
    std::str::from_utf8(&event.data().unwrap().bytes).unwrap()
}

#[test]
fn cloud_events_come_a_line_each_or_in_an_array() {
    let lines = "{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"/a\",\"type\":\"t\"}\n\n{\"specversion\":\"1.0\",\"id\":\"2\",\"source\":\"/a\",\"type\":\"t\",\"data\":{ \"x\" :1.50}}\r\n";
    let read = events(lines, Format::Json, None).unwrap();
    assert_eq!(read.iter().map(Event::id).collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(data(&read[1]), "{ \"x\" :1.50}");
    let array = " [{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"/a\",\"type\":\"t\"},\n {\"specversion\":\"1.0\",\"id\":\"2\",\"source\":\"/a\",\"type\":\"t\"}]";
    assert_eq!(events(array, Format::Json, None).unwrap().len(), 2);
    assert!(events("", Format::Json, None).unwrap().is_empty());
}

#[test]
fn plain_json_becomes_events_with_its_exact_text_as_data() {
    let text = "{\"ts\": 1700000000, \"n\": 1.10}\n{\"ts\":\"2026-01-31T12:00:00+01:00\",\"n\":2,\"in\":{\"specversion\":1}}";
    let read = events(text, Format::Json, Some(shape(Some("n"), Some("/ts")))).unwrap();
    assert_eq!(read[0].id(), "1.1");
    assert_eq!(data(&read[0]), "{\"ts\": 1700000000, \"n\": 1.10}");
    assert_eq!(read[0].time().unwrap().text(), "2023-11-14T22:13:20Z");
    assert_eq!(read[1].time().unwrap().text(), "2026-01-31T12:00:00+01:00");
    assert_eq!(read[1].ty(), "t.v1");
    let own = events(text, Format::Json, Some(shape(None, None))).unwrap();
    assert_eq!([own[0].id(), own[1].id()], ["run-1", "run-2"]);
}

#[test]
fn csv_rows_become_objects_whose_numbers_keep_their_digits() {
    let text = "code,temp,ok,note\n007,39.020,true,\"a, \"\"b\"\"\"\nEWR,-1e3,,\n";
    let read = events(text, Format::Csv, Some(shape(Some("code"), None))).unwrap();
    assert_eq!(data(&read[0]), r#"{"code":"007","temp":39.020,"ok":true,"note":"a, \"b\""}"#);
    assert_eq!(data(&read[1]), r#"{"code":"EWR","temp":-1e3,"ok":null,"note":null}"#);
    assert_eq!([read[0].id(), read[1].id()], ["007", "EWR"]);
}

#[test]
fn errors_name_the_line_and_what_to_do() {
    for (text, format, shape, says) in [
        ("{\"a\":1}\n", Format::Json, None, "line 1: not a CloudEvent"),
        ("\n{\"a\":\n", Format::Json, None, "line 2: not JSON"),
        ("{\"specversion\":\"1.0\",\"id\":\"1\"}", Format::Json, None, "line 1"),
        ("a,b\n1,2\n", Format::Csv, None, "--type and --source"),
        (
            "a,b\n1,2\n3\n",
            Format::Csv,
            Some(shape(None, None)),
            "line 3: the row has 1 cells, the heading has 2",
        ),
        ("a,a\n1,2\n", Format::Csv, Some(shape(None, None)), "twice"),
        ("{\"a\":1}\n", Format::Json, Some(shape(Some("b"), None)), "there is no /b to be the id"),
        ("{\"a\":\"x\"}\n", Format::Json, Some(shape(None, Some("a"))), "/a is no time"),
    ] {
        let failure = events(text, format, shape).map(|events| events.len()).unwrap_err();
        assert_eq!(failure.exit as u8, 2);
        assert!(failure.to_string().contains(says), "{failure}");
    }
}
