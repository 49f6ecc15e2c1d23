//! `weir profile`: a subscription's profile as code for a client that knows nothing of Weir.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use weir_client::Profile;

use crate::cli::AnswerArgs;
use crate::failure::Failure;
use crate::output;

#[derive(Debug, Args)]
#[command(after_help = "The profile holds a credential, and so does what this prints.\n\n\
    Example:\n  weir profile orders.flow.json --for curl | sh")]
pub(crate) struct ProfileArgs {
    /// The profile, as `weir subscribe --profile` keeps it
    file: PathBuf,
    /// For which client
    #[arg(long = "for", value_enum, value_name = "CLIENT")]
    client: Client,
    #[command(flatten)]
    pub(crate) answer: AnswerArgs,
}

/// Clients there is code for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Client {
    /// A shell command
    Curl,
    /// Python with nothing but its standard library
    Python,
    /// JavaScript for Node.js or a browser page of the node's own origin
    Javascript,
    /// This program
    Weir,
}

impl ProfileArgs {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let name = self.file.display();
        let text =
            std::fs::read(&self.file).map_err(|error| Failure::usage(format!("read {name}: {error}")))?;
        let profile: Profile = serde_json::from_slice(&text)
            .map_err(|error| Failure::usage(format!("{name} is not a profile: {error}")))?;
        let Some(grant) = &profile.grant else {
            return Err(Failure::failed(format!("{name} holds no grant yet: the producer has not decided"))
                .next("`weir subscribe --profile FILE` waits for the decision and collects the grant."));
        };
        let Some(url) = profile.endpoint("SSE").or_else(|| profile.endpoint("STREAM")) else {
            return Err(Failure::failed(format!("{name} names no endpoint that these clients could use")));
        };
        let code = self.client.code(url, grant, &self.file.display().to_string());
        output::print(self.answer.json, &serde_json::json!({ "code": code }), || code.clone())
    }
}

impl Client {
    /// Code that receives, and resumes where its last connection ended.
    fn code(self, url: &str, grant: &str, file: &str) -> String {
        match self {
            Client::Curl => format!(
                "curl -N -H {} -H 'Accept: text/event-stream' {}",
                shell(&format!("Authorization: Bearer {grant}")),
                shell(url)
            ),
            Client::Weir => format!("weir subscribe --profile {}", shell(file)),
            Client::Python => PYTHON.replace("URL", &quoted(url)).replace("GRANT", &quoted(grant)),
            Client::Javascript => JAVASCRIPT.replace("URL", &quoted(url)).replace("GRANT", &quoted(grant)),
        }
    }
}

/// A word that a shell takes as it is.
fn shell(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A string literal of JSON, which Python and JavaScript read alike.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

const PYTHON: &str = r#"import json, time, urllib.request

url, grant, last = URL, GRANT, None
while True:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {grant}", "Accept": "text/event-stream"})
    if last:
        request.add_header("Last-Event-ID", last)
    try:
        with urllib.request.urlopen(request, timeout=45) as response:
            data, name, seen = [], "message", None
            for line in response:
                field, _, value = line.decode().rstrip("\r\n").partition(":")
                value = value.removeprefix(" ")
                if field == "data":
                    data.append(value)
                elif field == "event":
                    name = value
                elif field == "id":
                    seen = value
                elif field == "" and not value:
                    if data and name == "message":
                        event = json.loads("\n".join(data))
                        print(event["id"], event["type"], event.get("data"))
                    last = seen or last
                    data, name, seen = [], "message", None
    except urllib.error.HTTPError as error:
        if error.code < 500 and error.code != 429:
            raise
    except OSError:
        pass
    time.sleep(2)"#;

const JAVASCRIPT: &str = r#"const url = URL, grant = GRANT;
let last;
for (;;) {
  const headers = { Authorization: `Bearer ${grant}`, Accept: "text/event-stream" };
  if (last) headers["Last-Event-ID"] = last;
  try {
    const response = await fetch(url, { headers });
    if (response.status < 500 && response.status !== 429 && !response.ok) throw new TypeError(await response.text());
    let text = "";
    for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
      text += chunk;
      for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
        const message = { event: "message", data: "" };
        for (const line of text.slice(0, end).split("\n")) {
          const [, field, value] = line.match(/^([a-z]*): ?(.*)$/) ?? [];
          if (field) message[field] = value;
        }
        if (message.event === "message" && message.data) console.log(JSON.parse(message.data));
        last = message.id ?? last;
      }
    }
  } catch (error) {
    if (error instanceof TypeError && error.cause === undefined) throw error;
  }
  await new Promise((resolve) => setTimeout(resolve, 2000));
}"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_quotes_what_it_is_given() {
        let code = Client::Curl.code("http://a/'x'", "t$oken", "f");
        assert!(
            code.contains(r"'http://a/'\''x'\'''") && code.contains("'Authorization: Bearer t$oken'"),
            "{code}"
        );
        assert!(Client::Python.code("http://a/\"", "g", "f").contains(r#"= "http://a/\"", "g", None"#));
    }
}
