//! docs/configuration.md, made from the one declaration of every setting.

use super::keys::keys;

/// The reference as Markdown.
pub(crate) fn reference() -> String {
    let mut text = String::from(HEAD);
    for key in keys() {
        let default = if key.default.is_empty() { "none".to_owned() } else { format!("`{}`", key.default) };
        let value = if key.is_switch() { String::new() } else { format!(" {}", key.value()) };
        let doc = key.doc.split_whitespace().collect::<Vec<_>>().join(" ");
        text.push_str(&format!(
            "| `{}` | `--{}{value}` | `{}` | {default} | {doc} |\n",
            key.name,
            key.flag(),
            key.variable(),
        ));
    }
    text.push_str(FOOT);
    text
}

const HEAD: &str = "# Configuration

<!-- Made by `weir configuration-reference > docs/configuration.md`; a test compares it. -->

`weir serve` needs none: it listens on 127.0.0.1:8080 and stores under `weir-data`. Every setting has one name: the key in
`weir.toml`, with dashes the flag, in capitals the environment variable. Flags win over the environment, the environment over
the file. The file is `weir.toml` in the working directory, or what `--config` (or `WEIR_CONFIG`) names:

```toml
name = \"acme.example\"
listen = \"127.0.0.1:8080\"
url = \"https://flow.acme.example\"
data = \"/var/lib/weir\"
log_format = \"json\"
```

Everything is checked before the node opens a socket or touches its data. An unknown key is an error that names the nearest
known one.

An address that other machines can reach needs tokens (`weir keys token create --role owner --data DIR` works before the first
start) and, because this version has no TLS yet, `insecure_plaintext`. On a loopback address a node without tokens is open to
everyone on the machine, and says so when it starts.

| key | flag | variable | default | |
|---|---|---|---|---|
";

const FOOT: &str = "
## Client commands

| variable | flag | default | |
|---|---|---|---|
| `WEIR_NODE` | `--node URL` | `http://127.0.0.1:8080` | The node that client commands talk to. |
| `WEIR_TOKEN` | `--token TOKEN` | none | The credential they show it. It goes to that node only. |
";
