//! What needs no node, or none that runs: usage, configuration, help, keys before the first start.

use super::harness::{Node, expect, run, stderr, stdout, weir};

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
