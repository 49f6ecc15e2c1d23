//! What needs no node, or none that runs: usage, configuration, help, keys before the first start.

use super::harness::{Node, events, expect, id, run, stderr, stdout, weir};

#[test]
fn usage_errors_end_with_2_and_name_what_was_meant() {
    let output = run(weir().arg("strem"), "");
    expect(2, &output);
    assert!(stderr(&output).contains("stream"), "{}", stderr(&output));
    let output = run(weir().args(["stream", "show", "Not A Name"]), "");
    expect(2, &output);
    let output = run(weir().args(["serve", "--listen", "0.0.0.0:0", "--data", "/nowhere/at/all"]), "");
    expect(2, &output);
    assert!(stderr(&output).contains("--insecure-plaintext"), "{}", stderr(&output));
    let output = run(weir().args(["serve", "--config", "/nowhere/weir.toml"]), "");
    expect(2, &output);
    assert!(stdout(&output).is_empty());
}

#[test]
fn an_address_others_can_reach_needs_a_token_first() {
    let node = Node::stopped();
    let output = run(
        weir().args(["serve", "--listen", "0.0.0.0:0", "--insecure-plaintext", "--data"]).arg(node.data()),
        "",
    );
    assert!(!output.status.success());
    assert!(stderr(&output).contains("token"), "{}", stderr(&output));
}

#[test]
fn tokens_can_be_made_before_the_first_start_but_not_beside_a_node() {
    let mut node = Node::stopped();
    let create = |node: &Node| {
        run(
            weir().args(["keys", "token", "create", "--role", "owner", "--json", "--data"]).arg(node.data()),
            "",
        )
    };
    expect(0, &create(&node));
    expect(0, &run(weir().args(["keys", "token", "list", "--data"]).arg(node.data()), ""));
    node.start();
    let output = create(&node);
    expect(1, &output);
    assert!(stderr(&output).contains("another"), "{}", stderr(&output));
}

#[test]
fn completions_manual_and_version_are_made_of_the_same_declaration() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let output = run(weir().args(["completions", shell]), "");
        expect(0, &output);
        assert!(stdout(&output).contains("subscribe"));
    }
    expect(0, &run(weir().arg("man").arg(folder.path()), ""));
    assert!(folder.path().join("weir-publish.1").exists());
    assert!(stdout(&run(weir().arg("--version"), "")).starts_with("weir "));
}

#[test]
fn damage_is_found_named_and_closed_under_a_new_history() {
    let mut node = Node::started();
    node.ok(&["stream", "create", "s"], "");
    for batch in 0..20 {
        node.ok(&["publish", "s"], &events(batch * 50 + 1, 50));
    }
    let before = node.json(&["stream", "show", "s"])["history"].clone();
    node.stop();
    let log = |node: &Node, what: &str| run(weir().args(["log", what, "--data"]).arg(node.data()), "");
    expect(0, &log(&node, "check"));
    // One byte of an event in the middle.
    let needle = b"{\"n\":500}";
    let (file, place) = walk(&node.data())
        .into_iter()
        .find_map(|file| {
            let bytes = std::fs::read(&file).unwrap();
            let place = bytes.windows(needle.len()).position(|window| window == needle)?;
            Some((file, place))
        })
        .expect("the event lies somewhere");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[place + 5] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let output = log(&node, "check");
    expect(1, &output);
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(stdout(&output).contains(name), "{}", stdout(&output));
    assert!(stderr(&output).contains("weir log repair"), "{}", stderr(&output));
    expect(0, &log(&node, "repair"));
    expect(0, &log(&node, "check"));
    node.start();
    assert_ne!(node.json(&["stream", "show", "s"])["history"], before);
    let left = node.ok(&["subscribe", "s", "--from", "earliest", "--no-follow", "--quiet"], "");
    let left: Vec<String> = left.lines().map(id).collect();
    assert!(
        !left.contains(&"500".to_owned())
            && left.contains(&"1".to_owned())
            && left.contains(&"1000".to_owned())
    );
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
