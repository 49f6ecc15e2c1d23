//! The fold, its snapshots and its crash points; the derived streams; cost.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::decision::Decision;
use super::super::snapshot;
use super::super::subscription::Why;
use super::*;

/// One random step. Numbers pick among what there is, modulo its count.
#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Retire(u8),
    Ask(u8, u8),
    Change(u8, u8),
    Decide(u8, u8),
    Grant(u8),
    Token(u8),
    RevokeToken(u8),
    Pass(u16),
    Snapshot,
    Crash,
    Fail(bool, u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..4_u8, 0..4_u8).prop_map(|(name, access)| Step::Put(name, access)),
        1 => (0..4_u8).prop_map(Step::Retire),
        4 => (0..4_u8, 0..3_u8).prop_map(|(stream, who)| Step::Ask(stream, who)),
        2 => (any::<u8>(), 0..4_u8).prop_map(|(which, filters)| Step::Change(which, filters)),
        5 => (any::<u8>(), 0..6_u8).prop_map(|(which, verb)| Step::Decide(which, verb)),
        2 => any::<u8>().prop_map(Step::Grant),
        1 => (0..4_u8).prop_map(Step::Token),
        1 => any::<u8>().prop_map(Step::RevokeToken),
        1 => (0..50_u16).prop_map(Step::Pass),
        1 => Just(Step::Snapshot),
        1 => Just(Step::Crash),
        2 => (any::<bool>(), 0..4_u8).prop_map(|(done, name)| Step::Fail(done, name)),
    ]
}

async fn carry_out(bench: &mut Bench, step: &Step) {
    let nth = |which: u8| {
        bench.control.read(|state| {
            let count = state.subscriptions().len().max(1);
            state.subscriptions().nth(usize::from(which) % count).map(|subscription| subscription.id)
        })
    };
    let stream = |name: u8| format!("s{name}");
    let put = |name: u8, access: u8| {
        let access = ["private", "allow", "approval", "open"][usize::from(access)];
        put(&stream(name), json!({"access": access, "allow": ["acme.example"]}), Seen::Unsaid)
    };
    // Whatever is refused must have changed nothing; that is what the invariants are checked for afterwards.
    let decide = async |caller: &Caller, command: Command| {
        let refused = match bench.control.decide(caller, command.clone()).await {
            Err(error) if error.code() == Code::ConfirmationRequired => error,
            other => return other.ok(),
        };
        let token = refused.members()["confirm"].as_str().map(str::to_owned);
        let mut command = command;
        match &mut command {
            Command::PutStream { confirm, .. }
            | Command::PatchStream { confirm, .. }
            | Command::RetireStream { confirm, .. } => *confirm = token,
            _ => {}
        }
        Some(bench.control.decide(caller, command).await.unwrap())
    };
    let node = Caller::Node;
    match step {
        Step::Put(name, access) => {
            let Command::PutStream { name, descriptor, .. } = put(*name, *access) else { return };
            let known = bench.control.stream(name.as_str());
            let seen = known.map_or(Seen::Unsaid, |stream| Seen::Version(stream.revision));
            decide(&node, Command::PutStream { name, descriptor, seen, confirm: None }).await;
        }
        Step::Retire(name) => {
            let name = stream(*name).parse().unwrap();
            decide(&node, Command::RetireStream { name, seen: Seen::Unsaid, confirm: None, reason: None })
                .await;
        }
        Step::Ask(name, who) => {
            let caller = match who {
                0 => Caller::anonymous(Some([192, 0, 2, 1].into())),
                1 => Caller::Open,
                _ => node,
            };
            let request = Box::new(Request::parse(&request(&stream(*name))).unwrap());
            decide(&caller, Command::Subscribe { request }).await;
        }
        Step::Change(which, filters) => {
            let Some(id) = nth(*which) else { return };
            let name = bench.control.read(|state| state.subscription(id).unwrap().request.stream.clone());
            let mut body = request(name.as_str());
            body["filters"] = (0..*filters).map(|n| json!({"exact": {"subject": n.to_string()}})).collect();
            let request = Box::new(Request::parse(&body).unwrap());
            decide(&node, Command::ChangeSubscription { id, request }).await;
        }
        Step::Decide(which, verb) => {
            let Some(id) = nth(*which) else { return };
            let reason = Some("because".into());
            let command = match verb {
                0 => Command::Accept { id, reason, imposed: Box::default() },
                1 => Command::Reject { id, reason },
                2 => Command::Suspend { id, reason },
                3 => Command::Resume { id, reason },
                4 => Command::Revoke { id, reason },
                _ => Command::Cancel { id, reason },
            };
            decide(&node, command).await;
        }
        Step::Grant(which) => {
            let Some(id) = nth(*which) else { return };
            decide(&Caller::Requester { subscription: id }, Command::Grant { id }).await;
        }
        Step::Token(role) => {
            let expires = (role % 2 == 0).then(|| Time(bench.clock.now().0 + 86_400_000));
            let role = Role::ALL[usize::from(*role)];
            let organization = Some("acme.example".into());
            decide(&node, Command::CreateToken { role, streams: Pattern::all(), organization, expires })
                .await;
        }
        Step::RevokeToken(which) => {
            let id = bench.control.read(|state| {
                let count = state.tokens().len().max(1);
                state.tokens().nth(usize::from(*which) % count).map(|token| token.id)
            });
            if let Some(id) = id {
                decide(&node, Command::RevokeToken { id }).await;
            }
        }
        Step::Pass(days) => {
            bench.clock.advance(DAY * u32::from(*days));
            let now = bench.clock.now();
            let due: Vec<_> = bench.control.read(|state| {
                state.expiring().take_while(|(time, _)| *time <= now).map(|(_, item)| item).collect()
            });
            for item in due {
                bench.control.0.end(item).await.unwrap();
            }
        }
        Step::Snapshot => bench.control.0.save_snapshot(1).await.unwrap(),
        Step::Crash => bench.crash().await,
        Step::Fail(done, name) => {
            let fault = if *done { Fault::Done } else { Fault::Lost };
            bench.log.fail_next(own::STATE, fault);
            let before = bench.control.read(State::clone);
            let known = bench.control.stream(&stream(*name));
            let seen = known.map_or(Seen::Unsaid, |stream| Seen::Version(stream.revision));
            let descriptor = json!({"title": before.position().to_string()});
            let failed = bench.control.decide(&node, super::put(&stream(*name), descriptor, seen)).await;
            // What the log holds was decided, and nothing else, whatever the disk reported.
            let decided = bench.control.read(State::position) != before.position();
            match failed.map_err(|error| error.code()) {
                Ok(_) => assert!(*done && decided),
                Err(Code::OutcomeUnknown) => assert!(!*done && !decided),
                Err(Code::ConfirmationRequired) => bench.log.restart_faults(),
                other => panic!("{other:?}"),
            }
        }
    }
}

fn folded(events: &[Event<'_>]) -> State {
    let mut state = State::default();
    for (index, event) in events.iter().enumerate() {
        let mut bytes = Vec::new();
        proto::encode(event, &mut bytes);
        state.apply(Position(index as u64 + 1), &Decision::decode(&bytes).unwrap());
    }
    state
}

/// What holds in every state, whatever was asked for.
fn check(state: &State) {
    let mut ids = BTreeSet::new();
    for stream in state.streams() {
        assert!(stream.id.0 >= own::FIRST_USER && stream.id < state.next_stream());
        assert!(ids.insert(stream.id), "a number was given twice");
        assert!(state.retired(stream.name.as_str()).is_none());
    }
    for (_, retired) in state.all_retired() {
        assert!(ids.insert(retired.stream.id), "a retired stream's number was given again");
    }
    for subscription in state.subscriptions() {
        let live = state.stream(subscription.request.stream.as_str());
        let closed = subscription.status.is_closed();
        assert!(closed || live.is_some_and(|stream| stream.id == subscription.stream));
        assert!(!closed || subscription.wanted.is_none());
        let accepted =
            matches!(subscription.status, Status::Accepted | Status::Active | Status::Suspended { .. });
        assert!(!accepted || subscription.start.is_some(), "who may read has a place to begin");
        assert!(subscription.status != Status::Requested || subscription.grants.is_empty());
        assert!(subscription.grants.len() <= limits::GRANTS_MAX);
        assert!(subscription.revision <= state.position() && subscription.terms <= subscription.revision);
        if let Status::Suspended { producer, consumer } = subscription.status {
            assert!(producer || consumer);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Fold, snapshots and crashes: after any commands, refused or not, with appends that fail before or after they
    /// were stored, the state in memory is the fold of the log, and so is every way to open it again.
    #[test]
    fn every_way_to_the_state_gives_the_same(seed: u64, steps in proptest::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut bench = Bench::seeded(seed).await;
            let mut history = Vec::new();
            for step in &steps {
                carry_out(&mut bench, step).await;
                history.push(bench.control.read(State::clone));
            }
            let events = bench.log.events(own::STATE);
            let all = folded(&events);
            let held = bench.control.read(State::clone);
            assert_eq!(held, all);
            history.iter().for_each(check);
            // From the snapshot of any moment on, the rest leads to the same.
            let of = bench.log.status(own::STATE).unwrap().history;
            for moment in history.iter().step_by(7) {
                let (mut state, found) = snapshot::decode(&snapshot::encode(moment, of)).unwrap();
                assert_eq!((&state, found), (moment, of));
                for (index, event) in events.iter().enumerate().skip(moment.position().0 as usize) {
                    let mut bytes = Vec::new();
                    proto::encode(event, &mut bytes);
                    state.apply(Position(index as u64 + 1), &Decision::decode(&bytes).unwrap());
                }
                assert_eq!(state, all);
            }
            bench.crash().await;
            assert_eq!(bench.control.read(State::clone), all);
        });
    }
}

#[tokio::test]
async fn a_snapshot_is_never_trusted_beyond_the_log_nor_when_damaged_or_newer() {
    let mut bench = Bench::new().await;
    bench.create("s", json!({})).await;
    bench.control.0.save_snapshot(1).await.unwrap();
    let history = bench.log.status(own::STATE).unwrap().history;
    let dir = bench.dir.path().join("control");
    let load = |history, head| snapshot::load(&dir, history, Position(head)).is_some();
    assert!(load(history, 1));
    assert!(!load(history, 0), "it knows more than the log");
    assert!(!load(History(history.0 ^ 1), 1), "it is of another log");
    let path = dir.join("state.snapshot");
    let sound = std::fs::read(&path).unwrap();
    for at in 0..sound.len() {
        let mut damaged = sound.clone();
        damaged[at] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        assert!(!load(history, 1), "byte {at}");
        std::fs::write(&path, &sound[..at]).unwrap();
        assert!(!load(history, 1), "cut at {at}");
    }
    bench.crash().await;
    assert!(bench.control.stream("s").is_some(), "folded from the log instead");
}

#[tokio::test]
async fn a_decision_of_a_newer_program_stops_the_start() {
    let bench = Bench::new().await;
    let mut event = Event::new("1", "/_weir", "weir.stream.painted").unwrap();
    event.set("time", "2026-01-01T00:00:00Z").unwrap();
    let mut body = Vec::new();
    proto::push(&event, &mut body);
    let ends = vec![body.len() as u32];
    bench.log.append(own::STATE, Batch { body: body.into(), ends, ..Batch::default() }).await.unwrap();
    let options = Options {
        dir: bench.dir.path().to_owned(),
        clock: bench.clock.clone(),
        entropy: bench.entropy.clone(),
        open_without_tokens: true,
    };
    let refused = Control::open(bench.log.clone(), options).await.err().unwrap();
    assert_eq!(refused.code(), Code::Corrupt);
    assert!(refused.message().contains("newer"), "{refused}");
}

/// Every decision once, in order, whatever crashes in between; refusals new at once, repeats counted.
#[tokio::test]
async fn the_audit_tells_every_decision_exactly_once() {
    let mut bench = Bench::new().await;
    bench.create("s", json!({"access": "open"})).await;
    let acme = bench.token(Role::Consumer, ">", Some("acme.example")).await;
    bench.control.0.derive(false).await.unwrap();
    for round in 0..4 {
        let id = bench.ask(&acme, request("s")).await.subscription.id;
        match round {
            0 => bench.log.fail_next(own::AUDIT, Fault::Lost),
            1 => bench.log.fail_next(own::AUDIT, Fault::Done),
            2 => bench.crash().await,
            _ => {}
        }
        let _ = bench.control.0.derive(false).await;
        bench.decide(&acme, Command::Cancel { id, reason: None }).await.unwrap();
        if round == 3 {
            bench.crash().await;
        }
        for _ in 0..3 {
            bench.control.authorize(&acme, Action::Publish, "s").unwrap_err();
        }
        bench.control.0.derive(round == 3).await.unwrap();
        bench.control.0.derive(false).await.unwrap();
    }
    let retire = |confirm| Command::RetireStream {
        name: "s".parse().unwrap(),
        seen: Seen::Unsaid,
        confirm,
        reason: None,
    };
    let last = bench.ask(&acme, request("s")).await.subscription.id;
    let refused = bench.control.decide(&Caller::Node, retire(None)).await.unwrap_err();
    let token = refused.members()["confirm"].as_str().map(str::to_owned);
    bench.control.decide(&Caller::Node, retire(token)).await.unwrap();
    bench.control.0.derive(false).await.unwrap();

    let told = bench.log.events(own::AUDIT);
    let ids: BTreeSet<_> = told.iter().map(|event| event.id().to_owned()).collect();
    assert_eq!(ids.len(), told.len());
    let decisions: Vec<_> = bench.log.events(own::STATE).iter().map(|event| event.ty().to_owned()).collect();
    let decided =
        |event: &&Event<'_>| event.ty() != "weir.access.refused" && event.id().matches('-').count() == 1;
    let audited: Vec<_> = told.iter().filter(decided).map(|event| event.ty().to_owned()).collect();
    assert_eq!(audited, decisions);
    let closed = told.last().unwrap();
    assert_eq!((closed.ty(), closed.subject()), ("weir.subscription.retired", Some(&*last.to_string())));
    let refusals: Vec<Value> = told
        .iter()
        .filter(|event| event.ty() == "weir.access.refused")
        .map(|event| serde_json::from_slice(&event.data().unwrap().bytes).unwrap())
        .collect();
    let counts: Vec<_> = refusals.iter().map(|refusal| refusal["count"].as_u64().unwrap()).collect();
    assert_eq!(counts.iter().sum::<u64>(), 3 * 3 + 3 - 3, "what a crash took was only counted: {counts:?}");
    let scoped = Filters::of_scope(access::scope(&acme));
    let concerned: Vec<_> = told.iter().filter(|event| scoped.matches(event)).map(Event::ty).collect();
    assert!(!concerned.contains(&"weir.stream.created") && concerned.contains(&"weir.token.created"));
    let other = bench.token(Role::Consumer, ">", Some("other.example")).await;
    let scoped = Filters::of_scope(access::scope(&other));
    assert!(!told.iter().any(|event| scoped.matches(event)));
}

#[tokio::test]
async fn usage_and_notes_are_told_and_notes_bounded() {
    let bench = Bench::new().await;
    bench.create("s", json!({"access": "open"})).await;
    let target = Target::Stream { name: "s".parse().unwrap(), filters: None };
    let reader = bench.control.reader(&Caller::Open, target).unwrap();
    let meter = bench.control.meter(&reader);
    meter.events.fetch_add(5, Ordering::Relaxed);
    meter.bytes.fetch_add(700, Ordering::Relaxed);
    for _ in 0..1500 {
        bench.control.note("weir.disk.full", "", json!({}));
    }
    bench.control.0.derive(true).await.unwrap();
    bench.control.0.derive(true).await.unwrap();
    let usage = bench.log.events(own::USAGE);
    assert_eq!(usage.len(), 1, "nothing to say, nothing said");
    let data: Value = serde_json::from_slice(&usage[0].data().unwrap().bytes).unwrap();
    assert_eq!((&data["events"], &data["bytes"], &data["who"]), (&json!(5), &json!(700), &json!("open")));
    let ops = bench.log.events(own::OPS);
    assert_eq!((ops.len(), ops.last().unwrap().ty()), (1001, "weir.ops.lost"));
}

#[tokio::test]
async fn secrets_are_hashed_private_and_erased_when_nothing_refers_to_them() {
    let bench = Bench::new().await;
    bench.create("s", json!({"access": "open"})).await;
    let path = bench.dir.path().join("control/secrets");
    assert!(!path.exists(), "a node without secrets flushes no file for them");
    let asked = bench.ask(&Caller::Open, request("s")).await;
    let bearer = asked.grant.unwrap().bearer;
    let stored = || std::fs::read_to_string(&path).unwrap();
    let (_, random) = bearer.reveal().rsplit_once('_').unwrap();
    assert!(!stored().contains(random));
    assert_eq!(stored().lines().count(), 2);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let id = asked.subscription.id;
    bench.decide(&Caller::Open, Command::Cancel { id, reason: None }).await.unwrap();
    // Its holder is told what became of the subscription, as long as that is known.
    let held = bench.control.authenticate(Some(bearer.reveal()), None).unwrap_err();
    assert_eq!((held.code(), &held.members()["reason"]), (Code::SubscriptionClosed, &json!("cancelled")));
    let Caller::Token(token) = bench.token(Role::Reader, ">", None).await else { panic!("not a token") };
    let id = token.id;
    assert_eq!(stored().lines().count(), 3);
    bench.control.decide(&Caller::Node, Command::RevokeToken { id }).await.unwrap();
    bench.control.close().await;
    assert_eq!(stored().lines().count(), 2, "nothing refers to the token's hash any more");
}

/// Two decisions about one request at the same time: one is made, the other told that it came too late.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_decisions_at_once_one_is_made() {
    let bench = Bench::new().await;
    bench.create("s", json!({"access": "approval"})).await;
    for _ in 0..20 {
        let id = bench.ask(&Caller::anonymous(None), request("s")).await.subscription.id;
        let accept = Command::Accept { id, reason: None, imposed: Box::default() };
        let reject = Command::Reject { id, reason: None };
        let (node, control) = (Caller::Node, &bench.control);
        let (one, other) = tokio::join!(control.decide(&node, accept), control.decide(&node, reject));
        assert_eq!([one.is_ok(), other.is_ok()].iter().filter(|made| **made).count(), 1);
        let status = bench.control.read(|state| state.subscription(id).unwrap().status);
        assert_eq!(status == Status::Closed(Why::Rejected), other.is_ok());
    }
}

/// The same on the engine that nodes run on: what was decided is there again, and retired data is gone.
#[tokio::test(flavor = "multi_thread")]
async fn on_the_embedded_engine() {
    let dir = tempfile::tempdir().unwrap();
    let open = async || {
        let options = weir_log::Options { reserve_bytes: 0, stop_at: 1.0, ..weir_log::Options::default() };
        let engine = Arc::new(weir_log::engine::Engine::open(&dir.path().join("log"), options).unwrap());
        let options = Options {
            dir: dir.path().to_owned(),
            clock: Arc::new(crate::clock::SystemClock),
            entropy: Arc::new(crate::clock::SystemEntropy),
            open_without_tokens: true,
        };
        let control = Control::open(Arc::clone(&engine) as Arc<dyn Log>, options).await.unwrap();
        (engine, control)
    };
    let (engine, control) = open().await;
    let caller = Caller::Open;
    for name in ["a", "b"] {
        control.decide(&caller, put(name, json!({"access": "approval"}), Seen::Unsaid)).await.unwrap();
    }
    let ask = Command::Subscribe { request: Box::new(Request::parse(&request("a")).unwrap()) };
    let Ok(Outcome::Subscription { subscription, secret: Some(secret), .. }) =
        control.decide(&caller, ask).await
    else {
        panic!()
    };
    let retire =
        Command::RetireStream { name: "b".parse().unwrap(), seen: Seen::Unsaid, confirm: None, reason: None };
    control.decide(&caller, retire).await.unwrap();
    let accept = Command::Accept { id: subscription.id, reason: None, imposed: Box::default() };
    control.decide(&caller, accept).await.unwrap();
    let state = control.read(State::clone);
    control.0.derive(true).await.unwrap();
    let told = engine.status(own::AUDIT).unwrap().last;
    drop(control);
    engine.close();
    drop(engine);
    let (engine, control) = open().await;
    assert_eq!(control.read(State::clone), state);
    let requester = control.authenticate(Some(secret.reveal()), None).unwrap();
    assert!(control.decide(&requester, Command::Grant { id: subscription.id }).await.is_ok());
    control.0.derive(false).await.unwrap();
    assert_eq!(engine.status(own::AUDIT).unwrap().last, told.next());
    control.close().await;
    engine.close();
    drop((control, engine));
    let (_engine, control) = open().await;
    let granted = control.read(|state| state.subscription(subscription.id).unwrap().status);
    assert_eq!(granted, Status::Active, "from the snapshot");
}

/// What a hundred thousand streams cost. `cargo test --release -p weir-node many_streams -- --ignored --nocapture`
#[tokio::test]
#[ignore = "measures"]
async fn many_streams_cost_little_and_open_fast() {
    const COUNT: usize = 100_000;
    let resident = || {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let mut bench = Bench::new().await;
    let start = std::time::Instant::now();
    for n in 0..COUNT {
        bench
            .create(&format!("weather.stations.us.n{n}"), json!({"title": "a station", "access": "open"}))
            .await;
    }
    println!("created in {:?}, a stream's record is {} bytes", start.elapsed(), size_of::<Stream>());
    bench.control.close().await;
    let before = resident();
    let start = std::time::Instant::now();
    bench.crash().await;
    println!("opened in {:?}", start.elapsed());
    println!("resident grew by {} bytes a stream", resident().saturating_sub(before) / COUNT);
    let token = bench.token(Role::Reader, ">", None).await;
    let Caller::Token(_) = &token else { panic!() };
    let command = Command::CreateToken {
        role: Role::Reader,
        streams: Pattern::all(),
        organization: None,
        expires: None,
    };
    let Ok(Outcome::Token { bearer, .. }) = bench.control.decide(&Caller::Node, command).await else {
        panic!()
    };
    let timed_n = |count: u32, what: &str, call: &dyn Fn()| {
        let start = std::time::Instant::now();
        (0..count).for_each(|_| call());
        println!("{what}: {:?}", start.elapsed() / count);
    };
    let timed = |what: &str, call: &dyn Fn()| timed_n(200_000, what, call);
    timed("stream", &|| drop(std::hint::black_box(bench.control.stream("weather.stations.us.n77777"))));
    timed("authenticate", &|| {
        drop(std::hint::black_box(bench.control.authenticate(Some(bearer.reveal()), None)))
    });
    let target = Target::Stream { name: "weather.stations.us.n77777".parse().unwrap(), filters: None };
    let reader = bench.control.reader(&token, target).unwrap();
    timed("standing", &|| drop(std::hint::black_box(bench.control.standing(&reader))));
    timed_n(50, "unknown name", &|| {
        bench.control.authorize(&token, Action::Read, "weather.stations.us.x77777").unwrap_err();
    });
    timed_n(10, "search", &|| {
        assert_eq!(bench.control.search(&token, "n99999", None, 10).items.len(), 1);
    });
}
