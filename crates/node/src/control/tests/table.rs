//! The one table: access × role × action, all of it.

use super::super::access::{Part, Verdict, reserved, table, verdict};
use super::super::descriptor::Access;
use super::*;

/// One letter per action, in the order of [`Action::ALL`]: find, read, subscribe, publish, change, decide.
/// `y` yes, `?` after a decision, `n` no, `-` hidden.
fn row(look: impl Fn(Action) -> Verdict) -> String {
    let letter = |verdict| match verdict {
        Verdict::Yes => 'y',
        Verdict::Ask => '?',
        Verdict::No(needed) => {
            assert!(!needed.is_empty());
            'n'
        }
        Verdict::Hidden => '-',
    };
    Action::ALL.into_iter().map(|action| letter(look(action))).collect()
}

#[test]
fn access_by_part_by_action() {
    let mut whole = String::new();
    for part in Part::ALL {
        let cells: Vec<_> =
            Access::ALL.into_iter().map(|access| row(|action| table(part, access, action))).collect();
        let own = row(|action| reserved(part, action));
        whole += &format!("{:<9} {} {own}\n", format!("{part:?}"), cells.join(" "));
    }
    // private, allow, approval, open, the node's own
    let expected = "\
Owner     yyyyyy yyyyyy yyyyyy yyyyyy yyynny
Host      yyyyyy yyyyyy yy?yyy yyyyyy yyynny
Reader    yyynnn yyynnn yyynnn yyynnn yyynnn
Publisher ynnynn ynnynn yn?ynn yyyynn ------
Listed    ------ yyynnn yn?nnn yyynnn yyynnn
Consumer  ------ ------ yn?nnn yyynnn yyynnn
Anyone    ------ ------ yn?nnn yyynnn ------
";
    assert_eq!(whole, expected);
}

#[tokio::test]
async fn credentials_play_their_part_and_only_where_their_pattern_covers() {
    let bench = Bench::new().await;
    let stream = bench.create("weather.us.ny", json!({"access": "allow", "allow": ["acme.example"]})).await;
    let caller = |role, streams, organization| bench.token(role, streams, organization);
    let find = |caller: &Caller| verdict(caller, Action::Find, &stream);
    let publish = |caller: &Caller| verdict(caller, Action::Publish, &stream);
    assert_eq!(publish(&caller(Role::Publisher, "weather.>", None).await), Verdict::Yes);
    assert_eq!(publish(&caller(Role::Publisher, "weather.*.ny", None).await), Verdict::Yes);
    assert_eq!(publish(&caller(Role::Publisher, "weather.us", None).await), Verdict::Hidden);
    assert_eq!(publish(&caller(Role::Publisher, "weather.*", None).await), Verdict::Hidden);
    assert_eq!(find(&caller(Role::Consumer, ">", Some("acme.example")).await), Verdict::Yes);
    assert_eq!(find(&caller(Role::Consumer, ">", Some("other.example")).await), Verdict::Hidden);
    assert_eq!(find(&caller(Role::Consumer, "orders.>", Some("acme.example")).await), Verdict::Hidden);
    assert_eq!(find(&caller(Role::Owner, "orders.>", None).await), Verdict::Hidden);
}

/// What a caller may not know of answers exactly as what is not there, in every call.
#[tokio::test]
async fn hidden_streams_answer_as_if_they_did_not_exist() {
    let bench = Bench::new().await;
    bench.create("orders.secret", json!({})).await;
    bench.create("orders.public", json!({"access": "open"})).await;
    let stranger = bench.token(Role::Consumer, ">", Some("acme.example")).await;
    for caller in [Caller::anonymous(None), stranger] {
        for action in Action::ALL {
            let answer = |name: &str| {
                let error = bench.control.authorize(&caller, action, name).unwrap_err();
                let mut members = serde_json::to_string(error.members()).unwrap();
                members = members.replace(name, "NAME");
                (error.code(), error.message().replace(name, "NAME"), members)
            };
            assert_eq!(answer("orders.secret"), answer("orders.secres"), "{action:?}");
            assert_eq!(answer("orders.secret").0, Code::UnknownStream);
        }
        let near = bench.control.authorize(&caller, Action::Read, "orders.pubic").unwrap_err();
        assert_eq!(near.members().get("near"), Some(&json!(["orders.public"])));
        for (one, other) in [("orders.secret", "orders.secrex")] {
            let code = async |name: &str, command: fn(&str) -> Command| {
                let error = bench.control.decide(&caller, command(name)).await.unwrap_err();
                (error.code(), error.message().replace(name, "NAME"))
            };
            let commands: [fn(&str) -> Command; 4] = [
                |name| put(name, json!({"title": "mine"}), Seen::Unsaid),
                |name| Command::PatchStream {
                    name: name.parse().unwrap(),
                    patch: json!({"access": "open"}),
                    seen: Seen::Unsaid,
                    confirm: None,
                },
                |name| Command::RetireStream {
                    name: name.parse().unwrap(),
                    seen: Seen::Unsaid,
                    confirm: None,
                    reason: None,
                },
                |name| Command::Subscribe { request: Box::new(Request::parse(&request(name)).unwrap()) },
            ];
            for command in commands {
                assert_eq!(code(one, command).await, code(other, command).await);
            }
        }
    }
    let page = bench.control.search(&Caller::anonymous(None), "", None, 10);
    let names: Vec<_> = page.items.iter().map(|stream| stream.name.as_str()).collect();
    assert_eq!(names, ["orders.public"]);
}

#[tokio::test]
async fn an_open_node_closes_with_its_first_token_for_good() {
    let mut bench = Bench::new().await;
    bench.create("s", json!({})).await;
    let open = bench.control.authenticate(None, None).unwrap();
    assert!(matches!(open, Caller::Open));
    let target = Target::Stream { name: "s".parse().unwrap(), filters: None };
    let reader = bench.control.reader(&open, target).unwrap();
    assert_eq!(bench.control.standing(&reader), Standing::Active);
    let owner = bench.token(Role::Owner, ">", None).await;
    assert!(matches!(bench.control.standing(&reader), Standing::Closed { .. }));
    let Caller::Token(token) = &owner else { panic!() };
    bench.control.decide(&owner, Command::RevokeToken { id: token.id }).await.unwrap();
    assert!(matches!(bench.control.authenticate(None, None).unwrap(), Caller::Anonymous { .. }));
    bench.crash().await;
    assert!(!bench.control.is_open());
}

#[tokio::test]
async fn a_wrong_revoked_or_expired_bearer_is_not_anonymous() {
    let bench = Bench::new().await;
    let command = |expires| Command::CreateToken {
        role: Role::Reader,
        streams: Pattern::all(),
        organization: None,
        expires,
    };
    let soon = Time(bench.clock.now().0 + 1000);
    let Outcome::Token { bearer, .. } =
        bench.control.decide(&Caller::Node, command(Some(soon))).await.unwrap()
    else {
        panic!()
    };
    let tried = |bearer: &str| bench.control.authenticate(Some(bearer), None).map_err(|error| error.code());
    assert!(tried(bearer.reveal()).is_ok());
    for wrong in ["", "x", "weir_token_", &bearer.reveal()[..40], &"weir_".repeat(100)] {
        assert_eq!(tried(wrong).unwrap_err(), Code::BadCredential);
    }
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(tried(bearer.reveal()).unwrap_err(), Code::BadCredential);
    let past = bench.control.decide(&Caller::Node, command(Some(soon))).await.unwrap_err();
    assert_eq!(past.code(), Code::BadMember);
}

#[tokio::test]
async fn only_owners_of_everything_run_the_node() {
    let bench = Bench::new().await;
    let may = |caller: &Caller| bench.control.authorize_node(caller).map_err(|error| error.code());
    let all = bench.token(Role::Owner, ">", None).await;
    let some = bench.token(Role::Owner, "weather.>", None).await;
    let reader = bench.token(Role::Reader, ">", None).await;
    assert_eq!(may(&all), Ok(()));
    assert_eq!(may(&some), Err(Code::NotAllowed));
    assert_eq!(may(&reader), Err(Code::NotAllowed));
    assert_eq!(may(&Caller::anonymous(None)), Err(Code::CredentialRequired));
    assert!(bench.control.tokens(&some, None, 10).is_err());
    assert_eq!(bench.control.tokens(&all, None, 2).unwrap().items.len(), 2);
}
