//! Options from files, in k3s' manner: YAML whose keys are flag names, `config.yaml` first, then `config.yaml.d/*.yaml` in
//! alphabetical order. A later value wins; `key+` appends to a list. A flag on the command line wins over all files,
//! and replaces a list whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use clap::CommandFactory as _;
use serde_norway::Value;

use crate::cli::Cli;

const DEFAULT: &str = "/etc/pharos/config.yaml";

/// The arguments with the files' options put in, where the command takes a configuration file.
///
/// # Errors
/// When a file cannot be read, is not a mapping, or was named and does not exist.
pub fn with_files(arguments: Vec<OsString>) -> anyhow::Result<Vec<OsString>> {
    let Some(command) = arguments.get(1).and_then(|name| name.to_str()).filter(|name| matches!(*name, "server" | "agent")) else {
        return Ok(arguments);
    };
    let known = flags(command);
    let named = named_file(&arguments).or_else(|| std::env::var_os("PHAROS_CONFIG_FILE").map(PathBuf::from));
    let file = named.clone().unwrap_or_else(|| PathBuf::from(DEFAULT));
    let mut options = BTreeMap::new();
    if file.exists() {
        merge(&mut options, &read(&file)?, &known).with_context(|| format!("read {}", file.display()))?;
    } else if named.is_some() {
        bail!("configuration file {} does not exist", file.display());
    }
    for drop_in in drop_ins(&file)? {
        merge(&mut options, &read(&drop_in)?, &known).with_context(|| format!("read {}", drop_in.display()))?;
    }
    Ok(insert(arguments, options))
}

/// The long flags of a command.
fn flags(command: &str) -> BTreeSet<String> {
    let cli = Cli::command();
    let arguments = cli.find_subcommand(command).into_iter().flat_map(|command| command.get_arguments());
    let names = |argument: &clap::Arg| {
        let others = argument.get_all_aliases().unwrap_or_default();
        argument.get_long().into_iter().chain(others).map(str::to_owned).collect::<Vec<_>>()
    };
    arguments.flat_map(names).collect()
}

/// The value of `--config` or `-c`.
fn named_file(arguments: &[OsString]) -> Option<PathBuf> {
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let text = argument.to_string_lossy();
        if text == "--config" || text == "-c" {
            return arguments.next().map(PathBuf::from);
        }
        if let Some(path) = text.strip_prefix("--config=") {
            return Some(path.into());
        }
    }
    None
}

fn drop_ins(file: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut folder = file.as_os_str().to_owned();
    folder.push(".d");
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("read folder {}", folder.display())),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "yaml" || e == "yml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(file: &Path) -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    serde_norway::from_str(&text).with_context(|| format!("parse {}", file.display()))
}

/// Lays one file's options over those of the files before it.
fn merge(options: &mut BTreeMap<String, Vec<String>>, file: &Value, known: &BTreeSet<String>) -> anyhow::Result<()> {
    let entries = match file {
        Value::Null => return Ok(()),
        Value::Mapping(entries) => entries,
        _ => bail!("not a mapping of options"),
    };
    for (key, value) in entries {
        let Some(key) = key.as_str() else { bail!("an option's name is not text: {key:?}") };
        if !known.contains(key.strip_suffix('+').unwrap_or(key)) {
            // The parser of the command line would not say which file it is in.
            bail!("there is no option {key}");
        }
        let values = match value {
            Value::Sequence(items) => items.iter().map(|item| scalar(key, item)).collect::<anyhow::Result<Vec<_>>>()?,
            value => vec![scalar(key, value)?],
        };
        match key.strip_suffix('+') {
            Some(key) => options.entry(key.to_owned()).or_default().extend(values),
            None => {
                options.insert(key.to_owned(), values);
            }
        }
    }
    Ok(())
}

fn scalar(key: &str, value: &Value) -> anyhow::Result<String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(flag) => Ok(flag.to_string()),
        _ => bail!("option {key} is neither a value nor a list of values"),
    }
}

/// Puts the files' options after the command's name, except those that the command line gives itself.
fn insert(mut arguments: Vec<OsString>, options: BTreeMap<String, Vec<String>>) -> Vec<OsString> {
    let given = |key: &str| {
        arguments.iter().skip(2).any(|argument| {
            let text = argument.to_string_lossy();
            text.strip_prefix("--")
                .is_some_and(|flag| flag == key || flag.strip_prefix(key).is_some_and(|rest| rest.starts_with('=')))
        })
    };
    let from_files: Vec<OsString> = options
        .iter()
        .filter(|(key, _)| !given(key))
        .flat_map(|(key, values)| values.iter().map(move |value| OsString::from(format!("--{key}={value}"))))
        .collect();
    let rest = arguments.split_off(2);
    arguments.extend(from_files);
    arguments.extend(rest);
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(files: &[&str], arguments: &[&str], expected: &[&str]) {
        let mut options = BTreeMap::new();
        for file in files {
            merge(&mut options, &serde_norway::from_str(file).unwrap(), &flags("server")).unwrap();
        }
        let arguments = arguments.iter().map(OsString::from).collect();
        let result: Vec<String> = insert(arguments, options).iter().map(|a| a.to_string_lossy().into_owned()).collect();
        assert_eq!(result, expected);
    }

    #[test]
    fn files_are_laid_over_each_other() {
        check(
            &["node-name: a\ntls-san: [x, y]\n", "node-name: b\ntls-san+: [z]\nhttps-port: 7443\n"],
            &["pharos", "server", "--cluster-dns", "10.43.0.11"],
            &[
                "pharos",
                "server",
                "--https-port=7443",
                "--node-name=b",
                "--tls-san=x",
                "--tls-san=y",
                "--tls-san=z",
                "--cluster-dns",
                "10.43.0.11",
            ],
        );
    }

    #[test]
    fn the_command_line_wins() {
        check(
            &["node-name: a\ntls-san: [x, y]\n"],
            &["pharos", "server", "--tls-san=q", "--node-name", "b"],
            &["pharos", "server", "--tls-san=q", "--node-name", "b"],
        );
    }

    #[test]
    fn what_is_no_option_is_refused() {
        for file in ["[1, 2]", "node-name: {a: b}", "1: x", "debug: true", "token+: [x]"] {
            let refused = merge(&mut BTreeMap::new(), &serde_norway::from_str(file).unwrap(), &flags("server"));
            assert!(refused.is_err(), "{file}");
        }
        assert!(flags("server").contains("https-listen-port") && flags("agent").contains("token"));
    }

    #[test]
    fn the_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.yaml");
        std::fs::write(&file, "debug: true\n").unwrap();
        let arguments = ["pharos", "server", "--config"].map(OsString::from).into_iter().chain([file.clone().into()]);
        let error = format!("{:#}", with_files(arguments.collect()).unwrap_err());
        assert!(error.contains(file.to_str().unwrap()) && error.contains("no option debug"), "{error}");
    }
}
