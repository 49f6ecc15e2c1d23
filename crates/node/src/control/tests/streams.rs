//! Streams from creation to retirement.

use super::*;

#[tokio::test]
async fn a_stream_is_created_replaced_with_proof_of_having_looked_and_patched() {
    let bench = Bench::new().await;
    let node = Caller::Node;
    let code = |result: Result<Outcome, Error>| result.map_err(|error| error.code()).map(|_| ());
    let nothing_there = bench.control.decide(&node, put("s", json!({}), Seen::Any)).await;
    assert_eq!(code(nothing_there), Err(Code::PreconditionFailed));
    let stream = bench.create("s", json!({"title": "one", "retention": {"bytes": "10GiB"}})).await;
    assert_eq!(stream.id, StreamId(16));
    let decided = bench.control.read(State::position);
    let same = put("s", json!({"title": "one", "retention": {"bytes": "10GiB"}}), Seen::Unsaid);
    assert_eq!(code(bench.control.decide(&node, same).await), Ok(()));
    assert_eq!(bench.control.read(State::position), decided, "saying the same again decides nothing");
    let blind = put("s", json!({"title": "two"}), Seen::Unsaid);
    assert_eq!(code(bench.control.decide(&node, blind).await), Err(Code::IfMatchRequired));
    let exists = put("s", json!({"title": "two"}), Seen::Nothing);
    assert_eq!(code(bench.control.decide(&node, exists).await), Err(Code::PreconditionFailed));
    let replace = put("s", json!({"title": "two"}), Seen::Version(stream.revision));
    assert_eq!(code(bench.control.decide(&node, replace.clone()).await), Ok(()));
    assert_eq!(code(bench.control.decide(&node, replace).await), Err(Code::PreconditionFailed));
    let patch = |patch: Value| Command::PatchStream {
        name: "s".parse().unwrap(),
        patch,
        seen: Seen::Unsaid,
        confirm: None,
    };
    let patched = json!({"title": null, "retention": {"count": 5}, "tags": ["a"]});
    assert_eq!(code(bench.control.decide(&node, patch(patched)).await), Ok(()));
    let stream = bench.control.stream("s").unwrap();
    assert_eq!(stream.descriptor.title, None);
    assert_eq!(stream.descriptor.retention.count, Some(5));
    assert_eq!(stream.descriptor.retention.age, Some(7 * DAY));
    let wrong = bench.control.decide(&node, patch(json!({"retention": {"cuont": 5}}))).await.unwrap_err();
    assert_eq!(
        (wrong.code(), wrong.members()["nearest"].clone()),
        (Code::UnknownMember, json!("retention.count"))
    );
    assert_eq!(
        code(bench.control.decide(&node, put("_s", json!({}), Seen::Unsaid)).await),
        Err(Code::ReservedName)
    );
}

#[tokio::test]
async fn what_deletes_data_or_ends_subscriptions_needs_its_own_confirmation() {
    let bench = Bench::new().await;
    let node = Caller::Node;
    let stream = bench.create("s", json!({"access": "open"})).await;
    let shorter = |confirm: Option<String>, age: &str| Command::PatchStream {
        name: "s".parse().unwrap(),
        patch: json!({"retention": {"age": age}}),
        seen: Seen::Unsaid,
        confirm,
    };
    bench.control.decide(&node, shorter(None, "6d")).await.unwrap();
    bench.publish(&stream, 3).await;
    let refused = bench.control.decide(&node, shorter(None, "1d")).await.unwrap_err();
    assert_eq!(refused.code(), Code::ConfirmationRequired);
    let token = refused.members()["confirm"].as_str().unwrap().to_owned();
    let other = bench.control.decide(&node, shorter(Some(token.clone()), "2d")).await.unwrap_err();
    assert_eq!(other.code(), Code::ConfirmationRequired, "the token is for that change alone");
    bench.control.decide(&node, shorter(Some(token), "1d")).await.unwrap();

    let stranger = Caller::anonymous(None);
    let named = bench.token(Role::Consumer, ">", Some("acme.example")).await;
    let unnamed = bench.ask(&stranger, request("s")).await.subscription;
    let listed = bench.ask(&named, request("s")).await.subscription;
    let narrower = |confirm: Option<String>| Command::PatchStream {
        name: "s".parse().unwrap(),
        patch: json!({"access": "allow", "allow": ["acme.example"]}),
        seen: Seen::Unsaid,
        confirm,
    };
    let refused = bench.control.decide(&node, narrower(None)).await.unwrap_err();
    assert_eq!(refused.members()["effects"].as_array().unwrap().len(), 1);
    let token = refused.members()["confirm"].as_str().unwrap().to_owned();
    bench.control.decide(&node, narrower(Some(token))).await.unwrap();
    let status = |id| bench.control.read(|state| state.subscription(id).unwrap().status);
    assert_eq!(status(unnamed.id), Status::Closed(subscription::Why::Revoked));
    assert_eq!(status(listed.id), Status::Active);
}

#[tokio::test]
async fn a_retired_name_is_gone_to_who_knew_it_and_comes_back_as_another_stream() {
    let mut bench = Bench::new().await;
    let node = Caller::Node;
    let first = bench.create("s", json!({"access": "open"})).await;
    bench.create("hidden", json!({})).await;
    let asked = bench.ask(&Caller::anonymous(None), request("s")).await;
    let retire = |name: &str, confirm| Command::RetireStream {
        name: name.parse().unwrap(),
        seen: Seen::Unsaid,
        confirm,
        reason: Some("moved to t".into()),
    };
    let refused = bench.control.decide(&node, retire("s", None)).await.unwrap_err();
    let token = refused.members()["confirm"].as_str().unwrap().to_owned();
    let grant = bench.caller(&asked.grant.unwrap().bearer);
    let reader = bench.control.reader(&grant, Target::Subscription(asked.subscription.id)).unwrap();
    bench.control.decide(&node, retire("s", Some(token))).await.unwrap();
    bench.control.decide(&node, retire("hidden", None)).await.unwrap();
    assert!(matches!(
        bench.control.standing(&reader),
        Standing::Closed { why: subscription::Why::Retired, .. }
    ));
    let tried =
        |name| bench.control.authorize(&Caller::anonymous(None), Action::Read, name).unwrap_err().code();
    assert_eq!(tried("s"), Code::Retired);
    assert_eq!(tried("hidden"), Code::UnknownStream);
    bench.crash().await;
    assert!(bench.control.stream("s").is_none());
    let second = bench.create("s", json!({})).await;
    assert!(second.id > first.id);
    assert_ne!(second.history, first.history);
}

#[tokio::test]
async fn search_finds_all_words_and_pages_by_name() {
    let bench = Bench::new().await;
    for name in ["weather.ny", "weather.la", "orders.ny"] {
        bench.create(name, json!({"title": "Hourly DATA", "tags": ["Public"], "access": "open"})).await;
    }
    bench.create("weather.private", json!({"title": "hourly data public"})).await;
    let found = |q: &str, after: Option<&str>, limit| {
        let page = bench.control.search(&Caller::anonymous(None), q, after, limit);
        (page.items.iter().map(|stream| stream.name.to_string()).collect::<Vec<_>>().join(" "), page.next)
    };
    assert_eq!(found("hourly weather public", None, 10), ("weather.la weather.ny".to_owned(), None));
    assert_eq!(found("", None, 2), ("orders.ny weather.la".to_owned(), Some("weather.la".to_owned())));
    assert_eq!(found("", Some("weather.la"), 2), ("weather.ny".to_owned(), None));
    assert_eq!(found("nothing", None, 2), (String::new(), None));
    let all = bench.control.search(&Caller::Node, "", None, 100).items.len();
    assert_eq!(all, 7, "with the node's own three");
}

#[test]
fn descriptors_are_read_strictly_and_written_as_they_read() {
    let full = json!({
        "title": "t", "description": "d", "types": ["a.b"], "contenttype": "application/json; charset=utf-8",
        "access": "allow", "allow": ["acme.example"],
        "retention": {"age": "36h", "bytes": "10GiB", "count": 1_000_000}, "durability": "written",
        "dedupe": {"age": "2m", "count": 5}, "tags": ["x"], "region": "us-east", "aliases": {"kafka": "Orders_V1"},
        "origins": ["https://app.acme.example", "*"],
        "plain": {"type": "acme.status.v1", "source": "/tms", "id": {"data": "/id"}, "time": {"data": "/a~1b/0"}},
        "lift": {"partner": "/partner_id"},
    });
    let read = Descriptor::parse(&full).unwrap();
    assert_eq!(read.to_json(), full);
    assert_eq!(Descriptor::parse(&read.to_stored()).unwrap(), read);
    assert_eq!(Descriptor::default().to_stored(), json!({}));
    assert_eq!(Descriptor::parse(&Descriptor::default().to_json()).unwrap(), Descriptor::default());
    for (body, code, member) in [
        (json!([]), Code::BadMember, ""),
        (json!({"tilte": "x"}), Code::UnknownMember, "tilte"),
        (json!({"name": "x"}), Code::BadMember, "name"),
        (json!({"title": 1}), Code::BadMember, "title"),
        (json!({"title": "a\u{0}"}), Code::BadMember, "title"),
        (json!({"title": "x".repeat(301)}), Code::BadMember, "title"),
        (json!({"types": "x"}), Code::BadMember, "types"),
        (json!({"types": ["x", "x"]}), Code::BadMember, "types[1]"),
        (json!({"contenttype": "json"}), Code::BadMember, "contenttype"),
        (json!({"access": "public"}), Code::BadMember, "access"),
        (json!({"allow": ["Acme.example"]}), Code::BadMember, "allow[0]"),
        (json!({"retention": {"age": 7}}), Code::BadMember, "retention.age"),
        (json!({"retention": {"ages": "7d"}}), Code::UnknownMember, "retention.ages"),
        (json!({"durability": "sync"}), Code::BadMember, "durability"),
        (json!({"dedupe": true}), Code::BadMember, "dedupe"),
        (json!({"dedupe": {"age": "31d"}}), Code::BadMember, "dedupe.age"),
        (json!({"aliases": {"amqp": "x"}}), Code::UnknownMember, "aliases.amqp"),
        (json!({"origins": ["https://a.example/path"]}), Code::BadMember, "origins[0]"),
        (json!({"plain": {"id": "x"}}), Code::BadMember, "plain.id"),
        (json!({"plain": {"id": {"data": "id"}}}), Code::BadMember, "plain.id.data"),
        (json!({"lift": {"Partner": "/p"}}), Code::BadMember, "lift.Partner"),
        (json!({"lift": {"id": "/p"}}), Code::BadMember, "lift.id"),
    ] {
        let error = Descriptor::parse(&body).unwrap_err();
        assert_eq!((error.code(), error.members()["member"].as_str()), (code, Some(member)), "{body}");
    }
    let nearest = Descriptor::parse(&json!({"tilte": "x"})).unwrap_err();
    assert_eq!(nearest.members()["nearest"], json!("title"));
    let pointer = descriptor::Pointer::parse("/a~1b/0/~0").unwrap();
    assert_eq!(pointer.find(&json!({"a/b": [{"~": 1}]})), Some(&json!(1)));
}
