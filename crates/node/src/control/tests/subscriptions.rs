//! Subscriptions from request to end.

use super::super::subscription::{Side, Why};
use super::*;

fn accept(id: SubscriptionId, imposed: Value) -> Command {
    let imposed = Imposed::parse(&imposed, Time(1_790_000_000_000)).unwrap();
    Command::Accept { id, reason: None, imposed: Box::new(imposed) }
}

fn change(id: SubscriptionId, body: &Value) -> Command {
    Command::ChangeSubscription { id, request: Box::new(Request::parse(body).unwrap()) }
}

#[tokio::test]
async fn an_unnamed_request_waits_is_accepted_and_its_grant_collected_once() {
    let mut bench = Bench::new().await;
    let stream = bench.create("s", json!({"access": "approval"})).await;
    bench.publish(&stream, 3).await;
    let owner = bench.token(Role::Owner, ">", None).await;
    let without = json!({"config": {"stream": "s"}});
    let command = Command::Subscribe { request: Box::new(Request::parse(&without).unwrap()) };
    let stranger = Caller::anonymous(Some([192, 0, 2, 1].into()));
    assert_eq!(bench.decide(&stranger, command).await, Err(Code::ContactRequired));
    let asked = bench.ask(&stranger, request("s")).await;
    let id = asked.subscription.id;
    assert_eq!(asked.subscription.status, Status::Requested);
    assert!(asked.grant.is_none());
    let secret = asked.secret.unwrap();
    let requester = bench.caller(&secret);
    let waiting = bench.control.reader(&requester, Target::Subscription(id)).unwrap();
    assert_eq!(bench.control.standing(&waiting), Standing::Requested);
    assert_eq!(bench.control.subscription(&stranger, id).unwrap_err().code(), Code::UnknownSubscription);
    assert_eq!(bench.decide(&requester, accept(id, json!({}))).await, Err(Code::NotAllowed));
    assert_eq!(bench.decide(&stranger, accept(id, json!({}))).await, Err(Code::UnknownSubscription));
    assert_eq!(bench.decide(&requester, Command::Grant { id }).await, Err(Code::NotDecided));

    let accepted = bench.decide(&owner, accept(id, json!({"rate": "50/s"}))).await.unwrap();
    assert_eq!((accepted.status, accepted.by), (Status::Accepted, subscription::By::Producer));
    let begins = bench.control.standing(&waiting);
    assert_eq!(begins, Standing::Changed, "who waited goes on with what was accepted");
    assert_eq!(accepted.start.unwrap().after, Position(3), "latest means the moment of acceptance");
    assert_eq!(
        bench.decide(&owner, accept(id, json!({}))).await,
        Err(Code::WrongState),
        "nothing is decided twice"
    );
    let reject = Command::Reject { id, reason: None };
    assert_eq!(bench.decide(&owner, reject).await, Err(Code::WrongState));
    bench.crash().await;
    let requester = bench.caller(&secret);
    let outcome = bench.control.decide(&requester, Command::Grant { id }).await.unwrap();
    let Outcome::Subscription { subscription, grant: Some(grant), .. } = outcome else { panic!() };
    assert_eq!(subscription.status, Status::Active);
    assert_eq!(bench.decide(&requester, Command::Grant { id }).await, Err(Code::WrongState));
    let holder = bench.caller(&grant.bearer);
    let reader = bench.control.reader(&holder, Target::Subscription(id)).unwrap();
    assert_eq!(reader.rate.unwrap().to_string(), "50/s");
    assert_eq!(bench.control.standing(&reader), Standing::Active);
    let spent = bench.control.reader(&requester, Target::Subscription(id)).unwrap_err();
    assert_eq!(spent.code(), Code::NotAllowed, "the secret opens nothing once the grant was collected");
    assert!(bench.control.subscription(&requester, id).is_ok(), "it still reads the request");
}

#[tokio::test]
async fn access_decides_at_once_where_it_may() {
    let bench = Bench::new().await;
    bench.create("open", json!({"access": "open"})).await;
    bench.create("allow", json!({"access": "allow", "allow": ["acme.example"]})).await;
    bench.create("approval", json!({"access": "approval"})).await;
    bench.create("private", json!({})).await;
    let acme = bench.token(Role::Consumer, ">", Some("acme.example")).await;
    let reader = bench.token(Role::Reader, ">", None).await;
    for (caller, stream, status) in [
        (&acme, "open", Status::Active),
        (&acme, "allow", Status::Active),
        (&acme, "approval", Status::Requested),
        (&reader, "private", Status::Active),
        (&reader, "approval", Status::Active),
        (&Caller::Open, "private", Status::Active),
        (&Caller::Open, "approval", Status::Requested),
    ] {
        let asked = bench.ask(caller, request(stream)).await;
        assert_eq!(asked.subscription.status, status, "{} {stream}", caller.name());
        assert_eq!(asked.grant.is_some(), status == Status::Active);
        let unnamed_request = matches!(caller, Caller::Open) && status == Status::Requested;
        assert_eq!(asked.secret.is_some(), unnamed_request);
    }
    let refused = Command::Subscribe { request: Box::new(Request::parse(&request("private")).unwrap()) };
    assert_eq!(bench.decide(&acme, refused).await, Err(Code::UnknownStream));
    let other = bench.token(Role::Consumer, ">", Some("other.example")).await;
    let wanted = Wanted::default();
    assert_eq!(bench.control.subscriptions(&other, &wanted, None, 10).items.len(), 0);
    assert_eq!(bench.control.subscriptions(&acme, &wanted, None, 10).items.len(), 3);
    let first = bench.control.subscriptions(&Caller::Node, &wanted, None, 4);
    let rest = bench.control.subscriptions(&Caller::Node, &wanted, first.next.as_deref(), 4);
    assert_eq!((first.items.len(), rest.items.len(), rest.next), (4, 3, None));
    let requested = Wanted { state: Some("requested".into()), stream: Some("approval".parse().unwrap()) };
    assert_eq!(bench.control.subscriptions(&Caller::Node, &requested, None, 10).items.len(), 2);
}

#[tokio::test]
async fn each_side_lifts_only_its_own_suspension() {
    let bench = Bench::new().await;
    bench.create("s", json!({"access": "open"})).await;
    let owner = bench.token(Role::Owner, ">", None).await;
    let acme = bench.token(Role::Consumer, ">", Some("acme.example")).await;
    let id = bench.ask(&acme, request("s")).await.subscription.id;
    let suspend = || Command::Suspend { id, reason: Some("too fast".into()) };
    let resume = || Command::Resume { id, reason: None };
    let reader = bench.control.reader(&acme, Target::Subscription(id)).unwrap();
    bench.decide(&owner, suspend()).await.unwrap();
    assert_eq!(
        bench.control.standing(&reader),
        Standing::Suspended { by: Side::Producer, reason: Some("too fast".into()) }
    );
    assert_eq!(bench.decide(&owner, suspend()).await, Err(Code::WrongState));
    assert_eq!(bench.decide(&acme, resume()).await, Err(Code::WrongState));
    bench.decide(&acme, suspend()).await.unwrap();
    bench.decide(&owner, resume()).await.unwrap();
    assert!(matches!(bench.control.standing(&reader), Standing::Suspended { by: Side::Consumer, .. }));
    assert_eq!(bench.decide(&owner, resume()).await, Err(Code::WrongState));
    bench.decide(&acme, resume()).await.unwrap();
    assert_eq!(bench.control.standing(&reader), Standing::Active);
    let mut changes = bench.control.changes();
    changes.mark_unchanged();
    bench.decide(&owner, Command::Revoke { id, reason: None }).await.unwrap();
    assert!(changes.has_changed().unwrap(), "deliveries are woken");
    assert!(matches!(bench.control.standing(&reader), Standing::Closed { why: Why::Revoked, .. }));
    assert_eq!(bench.decide(&owner, Command::Revoke { id, reason: None }).await, Err(Code::WrongState));
    assert_eq!(
        bench.decide(&acme, Command::Cancel { id, reason: None }).await,
        Err(Code::SubscriptionClosed)
    );
}

/// Invariant 6: a change that asks for more waits while the old acceptance stays; what asks for less applies.
#[tokio::test]
async fn a_change_that_asks_for_more_is_a_new_request() {
    let bench = Bench::new().await;
    let stream = bench.create("s", json!({"access": "approval"})).await;
    bench.publish(&stream, 10).await;
    let owner = bench.token(Role::Owner, ">", None).await;
    let acme = bench.token(Role::Consumer, ">", Some("acme.example")).await;
    let with = |filters: Value, types: Value, from: Value| json!({"config": {"stream": "s", "from": from}, "filters": filters, "types": types});
    let base = with(json!([{"exact": {"subject": "a"}}]), json!(["t1", "t2"]), json!(5));
    let id = bench.ask(&acme, base.clone()).await.subscription.id;
    bench
        .decide(&owner, accept(id, json!({"from": 7, "filters": [{"prefix": {"source": "/x"}}]})))
        .await
        .unwrap();
    let reader = bench.control.reader(&acme, Target::Subscription(id)).unwrap();
    assert_eq!(reader.after.unwrap().after, Position(6), "the later of what was asked and what was imposed");
    for narrower in [
        with(json!([{"exact": {"subject": "a"}}, {"prefix": {"type": "t"}}]), json!(["t1", "t2"]), json!(5)),
        with(json!([{"prefix": {"type": "t"}}, {"exact": {"subject": "a"}}]), json!(["t1"]), json!("latest")),
    ] {
        let changed = bench.decide(&acme, change(id, &narrower)).await.unwrap();
        assert!(changed.wanted.is_none(), "{narrower}");
        assert_eq!(bench.control.standing(&reader), Standing::Changed);
    }
    let accepted = bench.control.subscription(&acme, id).unwrap().request.clone();
    for wider in [
        with(json!([]), json!(["t1"]), json!("latest")),
        with(json!([{"prefix": {"type": "t"}}]), json!(["t1"]), json!("latest")),
        with(json!([{"prefix": {"type": "t"}}, {"exact": {"subject": "a"}}]), json!([]), json!("latest")),
        with(
            json!([{"prefix": {"type": "t"}}, {"exact": {"subject": "a"}}]),
            json!(["t1"]),
            json!("earliest"),
        ),
    ] {
        let asked = bench.decide(&acme, change(id, &wider)).await.unwrap();
        assert!(asked.wanted.is_some(), "{wider}");
        assert_eq!((asked.status, &asked.request), (Status::Active, &accepted));
    }
    let kept = bench.decide(&owner, Command::Reject { id, reason: None }).await.unwrap();
    assert_eq!((kept.status, kept.wanted.is_none(), &kept.request), (Status::Active, true, &accepted));
    let reader = bench.control.reader(&acme, Target::Subscription(id)).unwrap();
    bench.decide(&acme, change(id, &with(json!([]), json!([]), json!("earliest")))).await.unwrap();
    assert_eq!(
        bench.control.standing(&reader),
        Standing::Active,
        "asking does not disturb what is delivered"
    );
    let preview = bench.control.reader(&owner, Target::Preview(id)).unwrap();
    assert!(preview.filters.is_none() && preview.imposed_filters.is_some(), "what would be delivered");
    let widened = bench.decide(&owner, accept(id, json!({}))).await.unwrap();
    assert_eq!(widened.start.unwrap().after, Position::NONE);
    assert_eq!(
        bench.control.cursor(id).unwrap().floor.after,
        Position::NONE,
        "replay from the accepted start"
    );
    assert_eq!(bench.control.standing(&reader), Standing::Changed);
    assert!(
        bench.control.reader(&owner, Target::Subscription(id)).is_err(),
        "a producer previews, never delivers"
    );
}

#[tokio::test]
async fn what_runs_out_ends_at_once_and_is_decided_by_the_duty() {
    let bench = Bench::new().await;
    bench.create("s", json!({"access": "approval"})).await;
    let stranger = Caller::anonymous(None);
    let lapses = bench.ask(&stranger, request("s")).await.subscription.id;
    let limited = bench.ask(&stranger, request("s")).await;
    let id = limited.subscription.id;
    bench.decide(&Caller::Node, accept(id, json!({"expires": "2d"}))).await.unwrap();
    let requester = bench.caller(&limited.secret.unwrap());
    let Outcome::Subscription { grant: Some(grant), .. } =
        bench.control.decide(&requester, Command::Grant { id }).await.unwrap()
    else {
        panic!()
    };
    assert_eq!(grant.expires.0 - bench.clock.now().0, 2 * 86_400_000, "never longer than was imposed");
    let holder = bench.caller(&grant.bearer);
    let reader = bench.control.reader(&holder, Target::Subscription(id)).unwrap();
    let mut changes = bench.control.changes();
    let control = bench.control.clone();
    let duties = tokio::spawn(async move { control.run().await });
    bench.log.fail_next(own::STATE, Fault::Lost);
    tokio::time::sleep(Duration::from_millis(20)).await;
    changes.mark_unchanged();
    bench.clock.advance(2 * DAY);
    assert!(matches!(bench.control.standing(&reader), Standing::Closed { why: Why::Expired, .. }));
    tokio::time::timeout(Duration::from_secs(1), changes.changed()).await.unwrap().unwrap();
    assert!(bench.control.authenticate(Some(grant.bearer.reveal()), None).is_err());
    let closed = |id| bench.control.read(|state| state.subscription(id).unwrap().status);
    let until = |id| async move {
        while closed(id) != Status::Closed(Why::Expired) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert_eq!(closed(id), Status::Active, "the decision failed and is tried again");
    bench.clock.advance(29 * DAY);
    // Anything that is decided wakes the duty; a failing disk delays it by seconds at most.
    bench.create("other", json!({})).await;
    tokio::time::timeout(Duration::from_secs(10), async { tokio::join!(until(id), until(lapses)) })
        .await
        .unwrap();
    bench.control.close().await;
    duties.await.unwrap();
}

#[tokio::test]
async fn renewing_overlaps_and_is_bounded() {
    let bench = Bench::new().await;
    bench.create("s", json!({"access": "open"})).await;
    let asked = bench.ask(&Caller::anonymous(None), request("s")).await;
    let id = asked.subscription.id;
    let first = asked.grant.unwrap();
    let holder = bench.caller(&first.bearer);
    let mut renewed = Vec::new();
    for _ in 0..3 {
        let outcome = bench.control.decide(&holder, Command::Grant { id }).await.unwrap();
        let Outcome::Subscription { grant: Some(grant), .. } = outcome else { panic!() };
        renewed.push(grant);
    }
    let spent = bench.control.decide(&holder, Command::Grant { id }).await.unwrap_err();
    assert_eq!((spent.code(), spent.retry_hint()), (Code::TooManyRequests, Some(Duration::from_secs(3600))));
    bench.clock.advance(Duration::from_secs(3600));
    assert!(bench.control.authenticate(Some(first.bearer.reveal()), None).is_err());
    assert!(bench.control.authenticate(Some(renewed[2].bearer.reveal()), None).is_ok());
    let wrong = bench.ask(&Caller::anonymous(None), request("s")).await.subscription.id;
    let stranger = bench.decide(&bench.caller(&renewed[2].bearer), Command::Grant { id: wrong }).await;
    assert_eq!(stranger, Err(Code::UnknownSubscription), "a grant is for its own subscription");
}

#[tokio::test]
async fn requests_without_a_name_are_limited_per_address_and_stream() {
    let bench = Bench::new().await;
    bench.create("s", json!({"access": "approval"})).await;
    let ask = || Command::Subscribe { request: Box::new(Request::parse(&request("s")).unwrap()) };
    let from = |address: [u8; 4]| Caller::anonymous(Some(address.into()));
    for _ in 0..limits::REQUESTS_PER_ADDRESS_MAX {
        bench.decide(&from([192, 0, 2, 1]), ask()).await.unwrap();
    }
    assert_eq!(bench.decide(&from([192, 0, 2, 1]), ask()).await, Err(Code::TooManyRequests));
    let other = bench.decide(&from([192, 0, 2, 2]), ask()).await.unwrap();
    let first = bench.control.subscriptions(&Caller::Node, &Wanted::default(), None, 100).items;
    let first = first.iter().find(|subscription| subscription.id != other.id).unwrap().id;
    bench.decide(&Caller::Node, Command::Reject { id: first, reason: None }).await.unwrap();
    bench.decide(&from([192, 0, 2, 1]), ask()).await.unwrap();
    let stream = bench.control.stream("s").unwrap().id;
    let waiting = || bench.control.read(|state| state.counts(stream).requested);
    for n in waiting()..limits::REQUESTS_PER_STREAM_MAX {
        bench.decide(&from([198, 51, (n / 10) as u8, (n % 10) as u8]), ask()).await.unwrap();
    }
    assert_eq!(bench.decide(&from([203, 0, 113, 1]), ask()).await, Err(Code::TooManyRequests));
    let acme = bench.token(Role::Consumer, ">", Some("acme.example")).await;
    assert!(bench.decide(&acme, ask()).await.is_ok(), "who has a name is not held up by strangers");
}

#[tokio::test]
async fn a_ticket_opens_one_delivery_and_nothing_else() {
    let bench = Bench::new().await;
    bench.create("s", json!({"access": "open"})).await;
    let acme = bench.token(Role::Consumer, ">", Some("acme.example")).await;
    let id = bench.ask(&acme, request("s")).await.subscription.id;
    let ticket = bench.control.ticket(&acme, id).unwrap();
    let caller = bench.caller(&ticket.bearer);
    assert!(bench.control.authenticate(Some(ticket.bearer.reveal()), None).is_err(), "once");
    let reader = bench.control.reader(&caller, Target::Subscription(id)).unwrap();
    assert_eq!(bench.decide(&caller, Command::Cancel { id, reason: None }).await, Err(Code::NotAllowed));
    assert_eq!(bench.control.subscription(&caller, id).unwrap_err().code(), Code::UnknownSubscription);
    bench.clock.advance(Duration::from_secs(3600));
    assert_eq!(bench.control.standing(&reader), Standing::Active, "lives as long as what it was made with");
    let Caller::Token(token) = &acme else { panic!() };
    bench.control.decide(&Caller::Node, Command::RevokeToken { id: token.id }).await.unwrap();
    assert!(matches!(bench.control.standing(&reader), Standing::Closed { why: Why::Revoked, .. }));
    let late = bench.control.ticket(&Caller::Node, id).unwrap();
    bench.clock.advance(limits::TICKET_AGE);
    assert!(bench.control.authenticate(Some(late.bearer.reveal()), None).is_err());
}

#[tokio::test]
async fn cursors_move_by_ack_survive_restarts_and_know_their_history() {
    let mut bench = Bench::new().await;
    let stream = bench.create("s", json!({"access": "open"})).await;
    bench.publish(&stream, 20).await;
    let mut body = request("s");
    body["config"]["from"] = json!("earliest");
    let id = bench.ask(&Caller::Open, body).await.subscription.id;
    let history = bench.log.status(stream.id).unwrap().history;
    let at = |after| Origin { history, after: Position(after) };
    let mut moves = bench.control.cursor_moves(id).unwrap();
    moves.mark_unchanged();
    assert_eq!(bench.control.ack(id, at(5)).unwrap(), Position(5));
    assert_eq!(*moves.borrow_and_update(), Position(5));
    let range = |from, to| (Position(from), Position(to));
    assert_eq!(bench.control.acks(id, history, &[range(8, 8), range(10, 12)]).unwrap(), Position(5));
    assert_eq!(bench.control.cursor(id).unwrap().above, [range(8, 8), range(10, 12)]);
    assert_eq!(bench.control.ack(id, at(21)).unwrap_err().code(), Code::BadPosition);
    let other = Origin { history: History(1), after: Position(2) };
    assert_eq!(bench.control.ack(id, other).unwrap_err().code(), Code::HistoryChanged);
    bench.control.close().await;
    bench.crash().await;
    assert_eq!(bench.control.acks(id, history, &[range(6, 7)]).unwrap(), Position(8));
    assert_eq!(bench.control.acks(id, history, &[range(9, 9)]).unwrap(), Position(12));
    bench.control.seek(id, at(2)).unwrap();
    assert_eq!(bench.control.cursor(id).unwrap(), Cursor::at(at(2)));
}

#[test]
fn a_cursor_agrees_with_a_set_of_positions() {
    use proptest::prelude::*;
    proptest!(|(ranges in proptest::collection::vec((1_u64..60, 0_u64..8), 1..40))| {
        let mut cursor = Cursor::default();
        let mut model = std::collections::BTreeSet::new();
        for (from, length) in ranges {
            cursor.ack(Position(from), Position(from + length)).unwrap();
            model.extend(from..=from + length);
            let floor = (1..).take_while(|position| model.contains(position)).last().unwrap_or(0);
            prop_assert_eq!(cursor.floor.after, Position(floor));
            let above: Vec<u64> = cursor.above.iter().flat_map(|(from, to)| from.0..=to.0).collect();
            prop_assert_eq!(above, model.range(floor + 1..).copied().collect::<Vec<_>>());
            prop_assert!(cursor.above.windows(2).all(|pair| pair[0].1.next() < pair[1].0));
        }
    });
    let mut cursor = Cursor::default();
    cursor.ack(Position(10_001), Position(10_001)).unwrap();
    assert_eq!(cursor.ack(Position(10_003), Position(10_003)).unwrap_err().code(), Code::LimitReached);
    cursor.ack(Position(5_000), Position(5_000)).unwrap();
    cursor.ack(Position(10_003), Position(10_003)).unwrap();
}

#[test]
fn requests_are_read_strictly_and_written_as_they_read() {
    let full = json!({
        "config": {"stream": "s", "from": "earliest", "contact": "c", "note": "n", "ack": "sent"},
        "filters": [{"exact": {"type": "t"}}], "types": ["a", "b"], "source": "/x", "protocol": "STREAM",
    });
    let read = Request::parse(&full).unwrap();
    assert_eq!(Value::Object(read.to_json()), full);
    let with = |name: &str, value: Value| {
        let mut body = request("s");
        body[name] = value;
        body
    };
    for (body, code) in [
        (json!({}), Code::BadMember),
        (json!({"config": {"stream": "S"}}), Code::BadName),
        (json!({"config": {"stream": "s", "form": 1}}), Code::UnknownMember),
        (json!({"config": {"stream": "s", "from": "soon"}}), Code::BadPosition),
        (json!({"config": {"stream": "s", "from": -1}}), Code::BadPosition),
        (json!({"config": {"stream": "s", "ack": "never"}}), Code::BadMember),
        (with("protocol", json!("HTTP")), Code::UnsupportedProtocol),
        (with("protocol", json!("sse")), Code::UnsupportedProtocol),
        (json!({"config": {"stream": "s"}, "sink": "https://x.example"}), Code::UnsupportedProtocol),
        (with("sink", json!("https://x.example")), Code::BadMember),
        (with("protocolsettings", json!({"x": 1})), Code::UnknownMember),
        (with("filters", json!([{"regex": {"type": "t"}}])), Code::UnsupportedDialect),
        (with("filters", json!([{"any": [{"sql": "a ="}]}])), Code::BadFilter),
        (with("filters", json!([{"exact": {}}])), Code::BadFilter),
    ] {
        let error = Request::parse(&body).unwrap_err();
        assert_eq!(error.code(), code, "{body}: {error}");
    }
    let sql = Request::parse(&with("filters", json!([{"sql": "a ="}]))).unwrap_err();
    assert!(sql.members().contains_key("line") && sql.members().contains_key("expected"), "{sql:?}");
    let http = Request::parse(&with("protocol", json!("HTTP"))).unwrap_err();
    assert_eq!(http.members()["supported"], json!(["SSE", "STREAM"]));
    let now = Time(1_790_000_000_000);
    let imposed = json!({
        "filters": [{"exact": {"type": "t"}}], "form": {"keep": ["/a"], "hash": ["/a/b"]}, "rate": "5/m",
        "from": "2026-01-01T00:00:00.000Z", "expires": "2027-01-01T00:00:00.000Z",
    });
    assert_eq!(Value::Object(Imposed::parse(&imposed, now).unwrap().to_json()), imposed);
    assert!(Imposed::parse(&json!({"expires": "2020-01-01T00:00:00Z"}), now).is_err());
    assert_eq!(
        Imposed::parse(&json!({"expires": "1d"}), now).unwrap().expires,
        Some(Time(now.0 + 86_400_000))
    );
}
