//! Configuration of a node: where values come from, and that nothing starts before all of them make sense.
//!
//! Every setting has one name: the key in `weir.toml` (`log_format`), with dashes the flag (`--log-format`), in
//! capitals the environment variable (`WEIR_LOG_FORMAT`). Flags win over the environment, the environment over
//! the file, the file over the default. [`keys::keys`] lists them, each declared once with its doc, its default and
//! its check; help, reference, file and environment all read that list.
//!
//! An unknown key is an error that names the nearest known one. So is an environment variable that looks like a
//! misspelt one; other `WEIR_…` variables belong to somebody else.

mod keys;
mod reference;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches, Command, FromArgMatches};

pub(crate) use self::keys::{Config, LogFormat, is_loopback};
use self::keys::{Key, keys};
pub(crate) use self::reference::reference;
use crate::failure::Failure;

/// The flags of `weir serve`: one for each setting, and where the file is.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServeArgs {
    config: Option<PathBuf>,
    /// What was given, by key.
    given: BTreeMap<&'static str, String>,
}

impl clap::Args for ServeArgs {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .env("WEIR_CONFIG")
            .hide_env_values(true)
            .help("Read settings from this file [default: weir.toml, if there is one]");
        keys().iter().fold(command.arg(config), |command, key| command.arg(flag(key)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ServeArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = Self { config: matches.get_one::<PathBuf>("config").cloned(), ..Self::default() };
        for key in keys() {
            if let Some(value) = matches.get_one::<String>(key.name) {
                args.given.insert(key.name, value.clone());
            }
        }
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn flag(key: &Key) -> Arg {
    let default = if key.default.is_empty() { String::new() } else { format!(" [default: {}]", key.default) };
    let arg = Arg::new(key.name).long(key.flag()).value_name(key.value()).help(key.short() + &default);
    if key.is_switch() { arg.num_args(0..=1).require_equals(true).default_missing_value("true") } else { arg }
}

impl ServeArgs {
    /// The configuration, from all sources, checked.
    pub(crate) fn config(&self) -> Result<Config, Failure> {
        self.config_from(std::env::vars_os())
    }

    fn config_from(
        &self,
        environment: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Config, Failure> {
        let keys = keys();
        let mut config = Config::default();
        let mut values = self.file_values(&keys)?;
        values.extend(environment_values(&keys, environment)?);
        for key in &keys {
            values.extend(
                self.given.get(key.name).map(|value| (format!("--{}", key.flag()), key, value.clone())),
            );
        }
        for (source, key, value) in values {
            key.set(&mut config, &value).map_err(|wrong| Failure::usage(format!("{source}: {wrong}")))?;
        }
        config.check().map_err(|(key, wrong)| Failure::usage(format!("{key}: {wrong}")))?;
        Ok(config)
    }

    fn file_values<'a>(&self, keys: &'a [Key]) -> Result<Values<'a>, Failure> {
        let (path, must_be_there) = match &self.config {
            Some(path) => (path.as_path(), true),
            None => (Path::new("weir.toml"), false),
        };
        let name = path.display();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_be_there => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(Failure::usage(format!("read {name}: {error}"))),
        };
        let table: toml::Table =
            text.parse().map_err(|error| Failure::usage(format!("{name} is not TOML: {error}")))?;
        let mut values = Vec::new();
        for (found, value) in &table {
            let key = keys.iter().find(|key| key.name == found).ok_or_else(|| {
                let nearest = nearest(keys, found).map_or_else(
                    || "docs/configuration.md lists all".to_owned(),
                    |key| format!("did you mean {}?", key.name),
                );
                Failure::usage(format!("{name}: unknown key {found}; {nearest}"))
            })?;
            let text = match value {
                toml::Value::String(text) => text.clone(),
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Boolean(switch) => switch.to_string(),
                other => {
                    let kind = other.type_str();
                    return Err(Failure::usage(format!(
                        "{name}: {found} must be {}, not a {kind}",
                        key.expected
                    )));
                }
            };
            values.push((format!("{name}: {found}"), key, text));
        }
        Ok(values)
    }
}

/// Where each value came from, its key, and the value.
type Values<'a> = Vec<(String, &'a Key, String)>;

fn environment_values(
    keys: &[Key],
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Values<'_>, Failure> {
    let mut values = Vec::new();
    for (name, value) in environment {
        let Some(name) = name.to_str().filter(|name| name.starts_with("WEIR_")) else { continue };
        if ["WEIR_NODE", "WEIR_TOKEN", "WEIR_CONFIG"].contains(&name) {
            continue;
        }
        match keys.iter().find(|key| key.variable() == name) {
            Some(key) => match value.into_string() {
                Ok(value) => values.push((name.to_owned(), key, value)),
                Err(_) => return Err(Failure::usage(format!("{name} is not UTF-8"))),
            },
            None => {
                let looks_like = |key: &&Key| strsim::damerau_levenshtein(&key.variable(), name) <= 2;
                if let Some(key) = keys.iter().find(looks_like) {
                    let meant = key.variable();
                    return Err(Failure::usage(format!("unknown variable {name}; did you mean {meant}?")));
                }
            }
        }
    }
    Ok(values)
}

/// The key that somebody who wrote this most likely meant.
fn nearest<'a>(keys: &'a [Key], name: &str) -> Option<&'a Key> {
    let name = name.replace('-', "_");
    keys.iter()
        .map(|key| (strsim::jaro_winkler(key.name, &name), key))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, key)| key)
}

#[cfg(test)]
mod tests;
