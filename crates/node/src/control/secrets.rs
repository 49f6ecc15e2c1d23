//! Secrets: what proves that somebody holds a token, a grant or a request.
//!
//! A bearer is 256 random bits behind a prefix that tells secret scanners and people what it is. Only its SHA-256
//! is kept, in a file of its own that the state refers to by number and that can be rewritten without it. The
//! file is synced *before* the decision that refers to a new secret, so a decision never names one that a crash
//! could take; a secret that no decision names opens nothing and is dropped when the file is next rewritten.
//!
//! Whether a secret still opens anything is asked of the state each time: nothing here needs to be told of a
//! revocation. The file also keeps the node's own key, from which keys for hashed fields are made.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use subtle::ConstantTimeEq;

use super::command::Secret;
use super::files;
use super::record::TokenId;
use super::state::State;
use super::subscription::SubscriptionId;
use crate::clock::Entropy;

/// What a secret proves that its holder has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Holder {
    /// An API token.
    Token(TokenId),
    /// One of a subscription's grants.
    Grant(SubscriptionId, u64),
    /// A request made without a name.
    Request(SubscriptionId),
}

/// The secrets of a node: what is on disk, and an index of it.
#[derive(Debug)]
pub(super) struct Secrets {
    path: PathBuf,
    key: [u8; 32],
    /// By the first eight bytes of the digest. The rest is compared in constant time.
    index: RwLock<HashMap<u64, Entry>>,
    /// Held while the file is written. Counts the entries in it that the state may have dropped.
    file: Mutex<()>,
}

type Hash = [u8; 32];

#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: Hash,
    holder: Holder,
}

/// A secret that was drawn and not yet kept.
#[derive(Debug)]
pub(super) struct Drawn {
    /// What its holder gets to see.
    pub(super) secret: Secret,
    hash: Hash,
    holder: Holder,
}

impl Secrets {
    /// Reads the file, or makes one with a fresh key of the node. Lines that are damaged are left out: what they
    /// proved has to be issued anew.
    pub(super) fn open(dir: &Path, entropy: &dyn Entropy) -> io::Result<Self> {
        let path = dir.join("secrets");
        let mut key = None;
        let mut index = HashMap::new();
        let stored = files::load(&path)?;
        for line in stored.as_deref().unwrap_or_default().split_inclusive(|byte| *byte == b'\n') {
            match parse(line) {
                Some(Line::Key(bytes)) => key = Some(bytes),
                Some(Line::Entry(entry)) => {
                    index.insert(prefix(&entry.hash), entry);
                }
                None => tracing::warn!(bytes = line.len(), "a damaged line of the secrets file is left out"),
            }
        }
        let fresh = key.is_none();
        let key = match key {
            Some(key) => key,
            None => {
                let mut key = [0; 32];
                entropy.fill(&mut key)?;
                key
            }
        };
        let secrets = Self { path, key, index: RwLock::new(index), file: Mutex::new(()) };
        // The file is made with the first secret: a node that issues none needs no flush for it.
        if fresh && stored.is_some() {
            secrets.rewrite(|_| true)?;
        }
        Ok(secrets)
    }

    /// Draws a secret for a holder. Nothing is kept yet.
    pub(super) fn draw(&self, holder: Holder, entropy: &dyn Entropy) -> io::Result<Drawn> {
        let mut random = [0; 32];
        entropy.fill(&mut random)?;
        let kind = match holder {
            Holder::Token(_) => "weir_token_",
            Holder::Grant(..) => "weir_grant_",
            Holder::Request(_) => "weir_request_",
        };
        let text = format!("{kind}{}", URL_SAFE_NO_PAD.encode(random));
        let hash = digest(&text);
        Ok(Drawn { secret: Secret::new(text), hash, holder })
    }

    /// Keeps a drawn secret, synced. Blocks.
    pub(super) fn keep(&self, drawn: &Drawn) -> io::Result<()> {
        let _writing = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = Entry { hash: drawn.hash, holder: drawn.holder };
        let mut line = if self.path.exists() { Vec::new() } else { key_line(&self.key) };
        line.extend(entry_line(&entry));
        files::append(&self.path, &line)?;
        self.index.write().unwrap_or_else(PoisonError::into_inner).insert(prefix(&entry.hash), entry);
        Ok(())
    }

    /// Who holds this bearer, if it is one of ours. Says nothing about whether it still opens anything.
    #[must_use]
    pub(super) fn holder(&self, bearer: &str) -> Option<Holder> {
        // Anything longer is none of ours; hashing it would be work for a stranger.
        if bearer.len() > 128 || !bearer.starts_with("weir_") {
            return None;
        }
        let hash = digest(bearer);
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let entry = index.get(&prefix(&hash))?;
        bool::from(entry.hash.ct_eq(&hash)).then_some(entry.holder)
    }

    /// Erases what the state no longer refers to, if there is any: in memory and, synced, on disk. Blocks.
    pub(super) fn sweep(&self, state: &State) -> io::Result<()> {
        let live = |holder: &Holder| match holder {
            Holder::Token(id) => state.token(*id).is_some(),
            Holder::Request(id) => state.subscription(*id).is_some(),
            Holder::Grant(id, grant) => {
                state.subscription(*id).is_some_and(|found| found.grants.iter().any(|live| live.id == *grant))
            }
        };
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let dead: Vec<u64> =
            index.iter().filter(|(_, entry)| !live(&entry.holder)).map(|(prefix, _)| *prefix).collect();
        drop(index);
        if dead.is_empty() { Ok(()) } else { self.rewrite(|prefix| !dead.contains(prefix)) }
    }

    fn rewrite(&self, keep: impl Fn(&u64) -> bool) -> io::Result<()> {
        let _writing = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = key_line(&self.key);
        self.index.write().unwrap_or_else(PoisonError::into_inner).retain(|prefix, entry| {
            let keep = keep(prefix);
            if keep {
                bytes.extend(entry_line(entry));
            }
            keep
        });
        files::replace(&self.path, &bytes)
    }

    /// A key made from the node's own for one purpose: stable as long as the secrets file is.
    #[must_use]
    pub(super) fn key_for(&self, purpose: &str) -> [u8; 16] {
        let digest = Sha256::new().chain_update(self.key).chain_update(purpose.as_bytes()).finalize();
        std::array::from_fn(|index| digest[index])
    }
}

fn digest(text: &str) -> Hash {
    Sha256::digest(text.as_bytes()).into()
}

fn prefix(hash: &Hash) -> u64 {
    u64::from_be_bytes(std::array::from_fn(|index| hash[index]))
}

enum Line {
    Key([u8; 32]),
    Entry(Entry),
}

fn key_line(key: &[u8; 32]) -> Vec<u8> {
    line(&json!({"node": URL_SAFE_NO_PAD.encode(key)}))
}

fn entry_line(entry: &Entry) -> Vec<u8> {
    let hash = URL_SAFE_NO_PAD.encode(entry.hash);
    line(&match entry.holder {
        Holder::Token(id) => json!({"token": id.to_string(), "sha256": hash}),
        Holder::Grant(id, grant) => {
            json!({"subscription": id.to_string(), "grant": grant.to_string(), "sha256": hash})
        }
        Holder::Request(id) => json!({"subscription": id.to_string(), "sha256": hash}),
    })
}

fn line(value: &Value) -> Vec<u8> {
    let mut line = value.to_string().into_bytes();
    line.push(b'\n');
    line
}

fn parse(line: &[u8]) -> Option<Line> {
    let line: Value = serde_json::from_slice(line.strip_suffix(b"\n")?).ok()?;
    let text = |name: &str| line.get(name).and_then(Value::as_str);
    let bytes = |name: &str| <[u8; 32]>::try_from(URL_SAFE_NO_PAD.decode(text(name)?).ok()?).ok();
    if let Some(key) = bytes("node") {
        return Some(Line::Key(key));
    }
    let holder = match (text("token"), text("subscription"), text("grant")) {
        (Some(token), None, None) => Holder::Token(token.parse().ok()?),
        (None, Some(id), Some(grant)) => Holder::Grant(id.parse().ok()?, grant.parse().ok()?),
        (None, Some(id), None) => Holder::Request(id.parse().ok()?),
        _ => return None,
    };
    Some(Line::Entry(Entry { hash: bytes("sha256")?, holder }))
}
