//! What the user typed, from the command line, the environment and the configuration file.
//!
//! The table in [`flags`] is the single list of settings: the command line, the
//! `MEMORYSTORE_PROXY_*` variables, the keys of `--config-file` and the help text all come from it.
//! Invariant: a setting has one name everywhere, and every value remembers where it was written, so
//! an error can name that place. Values stay text here; [`crate::config`] gives them meaning.

pub mod flags;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::env::Environment;
use crate::error::Error;
use flags::{FLAGS, Flag, Kind, SUBCOMMANDS, Subcommand};

/// Every environment variable of the proxy begins with this.
pub const ENV_PREFIX: &str = "MEMORYSTORE_PROXY_";

const CONFIG_FILE: &str = "config-file";

/// Stands between several instances in the text of [`flags::ENDPOINT`]; none has spaces inside.
const BETWEEN: &str = " ";

/// Where a value was written. A greater one wins over a smaller one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A key of the configuration file.
    File,
    /// An environment variable.
    Env,
    /// The command line.
    Flag,
}

/// One setting as text. No `Debug`: it may be a token.
#[derive(Clone)]
pub struct Value {
    /// What stands there.
    pub text: String,
    /// Where it stands.
    pub origin: Origin,
}

/// All settings that were given, by flag name without dashes.
#[derive(Default)]
pub struct Settings {
    values: BTreeMap<&'static str, Value>,
    file: Option<PathBuf>,
    /// Things worth a log line once logging works, such as unknown environment variables.
    pub warnings: Vec<String>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let given = self.values.iter().map(|(name, value)| (name, value.origin));
        f.debug_map().entries(given).finish()
    }
}

impl Settings {
    /// The value of a setting, from the strongest place that gives it.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    /// How the user wrote the name of a setting at `origin`, for error texts.
    pub fn spelling(&self, name: &str, origin: Origin) -> String {
        match (origin, &self.file) {
            (Origin::Flag, _) if name == flags::ENDPOINT => "the endpoint argument".to_owned(),
            (Origin::File, Some(file)) => format!("key '{name}' in {}", file.display()),
            (Origin::Flag | Origin::File, _) => format!("--{name}"),
            (Origin::Env, _) => env_name(name),
        }
    }

    /// As [`Self::add`], in the place of what the same origin gave before.
    fn replace(&mut self, flag: &Flag, text: String, origin: Origin) {
        self.values.retain(|name, old| *name != flag.name || old.origin != origin);
        self.add(flag, text, origin);
    }

    fn add(&mut self, flag: &Flag, text: String, origin: Origin) {
        let weaker = self.values.get(flag.name).is_none_or(|old| old.origin < origin);
        if weaker {
            self.values.insert(flag.name, Value { text, origin });
        }
    }
}

/// What a command line asks for.
#[derive(Debug)]
pub enum Request {
    /// Run with these settings.
    Run(Settings),
    /// Do this instead, with these settings.
    Do(Subcommand, Settings),
    /// Print this (help or version) on stdout and end with code 0.
    Show(String),
}

/// The environment variable of a setting.
pub fn env_name(flag: &str) -> String {
    format!("{ENV_PREFIX}{}", flag.to_ascii_uppercase().replace('-', "_"))
}

/// Reads the command line (with the program's name first), the environment, and the configuration
/// file if one is named.
///
/// # Errors
/// [`Error::Config`] with one sentence for an unknown flag or key, a missing value or an unreadable
/// file.
pub fn parse<I, T>(argv: I, env: &Environment) -> Result<Request, Error>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let matches = match command().try_get_matches_from(argv) {
        Ok(matches) => matches,
        Err(error) => {
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                    Ok(Request::Show(error.render().to_string()))
                }
                _ => Err(Error::Config(one_sentence(&error))),
            };
        }
    };
    let sub = matches.subcommand().and_then(|(name, matches)| {
        SUBCOMMANDS.iter().find(|row| row.name == name).map(|row| (row, matches))
    });
    let mut settings = Settings::default();
    match sub {
        None => add_flags(&mut settings, &matches, &[]),
        Some((row, matches)) => add_flags(&mut settings, matches, row.own),
    }
    add_env(&mut settings, env)?;
    if let Some(path) = settings.get(CONFIG_FILE).map(|v| PathBuf::from(&v.text)) {
        let text = std::fs::read_to_string(&path).map_err(|error| {
            Error::config(format_args!(
                "cannot read the configuration file {} ({error}); check --config-file and its permissions",
                path.display()
            ))
        })?;
        settings.file = Some(path.clone());
        add_file(&mut settings, &path, &text)?;
    }
    Ok(match sub {
        None => Request::Run(settings),
        Some((row, _)) => Request::Do(row.what, settings),
    })
}

/// The command line as clap sees it, built from the table.
pub fn command() -> Command {
    Command::new("memorystore-auth-proxy")
        .version(env!("CARGO_PKG_VERSION"))
        .about(flags::ABOUT)
        .after_help(flags::AFTER_HELP)
        .next_line_help(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .args(FLAGS.iter().map(argument))
        .arg(help())
        .subcommands(SUBCOMMANDS.iter().map(subcommand))
        .disable_help_subcommand(true)
        .args_conflicts_with_subcommands(true)
        .arg(
            Arg::new("version")
                .long("version")
                .short('v')
                .short_alias('V')
                .action(ArgAction::Version)
                .help("Print the version and end")
                .help_heading(flags::PROGRAM),
        )
}

fn subcommand(row: &'static flags::SubcommandRow) -> Command {
    let ours = match row.what {
        Subcommand::Completion => &[],
        _ => FLAGS,
    };
    Command::new(row.name)
        .about(row.about)
        .next_line_help(true)
        .disable_help_flag(true)
        .args(row.own.iter().map(argument))
        .args(ours.iter().map(argument))
        .arg(help())
}

fn help() -> Arg {
    Arg::new("help")
        .long("help")
        .short('h')
        .action(ArgAction::Help)
        .help("Print this help and end")
        .help_heading(flags::PROGRAM)
}

fn argument(flag: &'static Flag) -> Arg {
    let help = flag_help(flag);
    let short = flags::SHORT.iter().find(|(_, name)| *name == flag.name).map(|(c, _)| *c);
    let aliases = flags::ALIASES.iter().filter(|(_, name)| *name == flag.name);
    let arg = Arg::new(flag.name)
        .short(short)
        .aliases(aliases.map(|(alias, _)| *alias))
        .help(help)
        .help_heading(flag.group);
    match flag.kind {
        Kind::Positional(value) => return instances(arg.value_name(value)),
        Kind::Value(value) => arg.long(flag.name).value_name(value),
        Kind::Bool => arg
            .long(flag.name)
            .value_name("true|false")
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true"),
    }
    .action(ArgAction::Set)
    .value_parser(value_parser!(String))
    .allow_hyphen_values(false)
}

fn instances(arg: Arg) -> Arg {
    arg.num_args(0..).action(ArgAction::Append).value_parser(value_parser!(String))
}

fn flag_help(flag: &Flag) -> StyledStr {
    let mut help = flag.help.to_owned();
    if let (Kind::Value(_), Some(default)) = (flag.kind, flag.default) {
        help.push_str(&format!(" [default: {default}]"));
    }
    if FLAGS.iter().any(|f| f.name == flag.name) {
        help.push_str(&format!(" [env: {}]", env_name(flag.name)));
    }
    help.into()
}

fn add_flags(settings: &mut Settings, matches: &ArgMatches, own: &'static [Flag]) {
    for flag in FLAGS.iter().chain(own) {
        // A subcommand need not have every argument.
        let given = matches.try_get_many::<String>(flag.name).ok().flatten();
        let texts: Vec<&str> =
            given.map_or_else(Vec::new, |texts| texts.map(String::as_str).collect());
        if !texts.is_empty() {
            settings.add(flag, texts.join(BETWEEN), Origin::Flag);
        }
    }
}

fn add_env(settings: &mut Settings, env: &Environment) -> Result<(), Error> {
    let mut strangers = Vec::new();
    let mut numbered: BTreeMap<u32, &str> = BTreeMap::new();
    for (name, value) in env.iter() {
        let Some(name) = name.to_str().filter(|n| n.starts_with(ENV_PREFIX)) else {
            continue;
        };
        if value.is_empty() {
            continue;
        }
        let text = || {
            value.to_str().ok_or_else(|| {
                Error::config(format_args!("{name} is not valid UTF-8; set it to plain text"))
            })
        };
        if let Some(number) = instance_number(name) {
            numbered.insert(number, text()?);
            continue;
        }
        let Some(flag) = FLAGS.iter().find(|flag| env_name(flag.name) == name) else {
            strangers.push(name);
            continue;
        };
        let text = text()?;
        // Kubernetes gives every pod such a variable for a Service named memorystore-proxy.
        if flag.name == "port" && text.starts_with("tcp://") {
            strangers.push(name);
            continue;
        }
        settings.add(flag, text.to_owned(), Origin::Env);
    }
    if let (Some(flag), false) =
        (FLAGS.iter().find(|f| f.name == flags::ENDPOINT), numbered.is_empty())
    {
        let first = env.var(&env_name(flag.name)).and_then(|first| first.to_str());
        let all: Vec<&str> = first.into_iter().chain(numbered.into_values()).collect();
        settings.replace(flag, all.join(BETWEEN), Origin::Env);
    }
    if !strangers.is_empty() {
        settings.warnings.push(format!(
            "ignoring environment variables that name no setting of this program: {}; see --help for \
             the list (a Kubernetes Service called memorystore-proxy creates some: \
             enableServiceLinks: false turns that off)",
            strangers.join(", ")
        ));
    }
    Ok(())
}

/// The number of a further instance: `MEMORYSTORE_PROXY_ENDPOINT_0`, `_1` and so on.
fn instance_number(name: &str) -> Option<u32> {
    name.strip_prefix(&env_name(flags::ENDPOINT))?.strip_prefix('_')?.parse().ok()
}

fn add_file(settings: &mut Settings, path: &Path, text: &str) -> Result<(), Error> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        // Not its Display: that quotes the line, which may hold a token.
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = before.map_or(1, |before| before.matches('\n').count() + 1);
        Error::config(format_args!(
            "the configuration file {} is not valid TOML at line {line}; compare it with config/proxy.toml",
            path.display()
        ))
    })?;
    for (key, value) in table {
        let flag = FLAGS
            .iter()
            .find(|flag| flag.name == key && flag.name != CONFIG_FILE)
            .ok_or_else(|| {
                Error::config(format_args!(
                    "unknown key '{key}' in {}; keys are the flag names without dashes in front, see --help",
                    path.display()
                ))
            })?;
        let text = toml_text(flag, value).map_err(|mend| {
            let name = settings.spelling(flag.name, Origin::File);
            Error::config(format_args!("{name} has the wrong type; {mend}"))
        })?;
        settings.add(flag, text, Origin::File);
    }
    Ok(())
}

/// A TOML value as the text one would write behind the flag, or what to write instead.
fn toml_text(flag: &Flag, value: toml::Value) -> Result<String, &'static str> {
    use toml::Value as V;
    match (flag.kind, value) {
        (Kind::Bool, V::Boolean(on)) => Ok(on.to_string()),
        (Kind::Bool, _) => Err("write true or false without quotes"),
        // 0o660 would arrive as 432 and be read as octal once more.
        (_, V::Integer(_)) if flag.name == "unix-socket-mode" => {
            Err("write it in quotes, such as \"0660\"")
        }
        (_, V::Integer(number)) => Ok(number.to_string()),
        (_, V::String(text)) => Ok(text),
        (Kind::Positional(_), V::Array(instances)) => {
            let all: Option<Vec<_>> = instances.iter().map(|v| v.as_str()).collect();
            all.map(|all| all.join(BETWEEN)).ok_or("write every instance as \"HOST:PORT\"")
        }
        _ => Err("write a string or a number"),
    }
}

fn one_sentence(error: &clap::Error) -> String {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    };
    // clap shows `--port <PORT>`; the first word is the name.
    let arg = context(ContextKind::InvalidArg).unwrap_or_default();
    let name = arg.split([' ', '=', '[']).next().unwrap_or_default();
    match error.kind() {
        ErrorKind::UnknownArgument if arg.starts_with('-') => {
            match context(ContextKind::SuggestedArg) {
                Some(near) => {
                    let near = near.split([' ', '=', '[']).next().unwrap_or_default();
                    format!("unknown flag '{name}'; did you mean '{near}'? See --help")
                }
                None => format!("unknown flag '{name}'; see --help for the list"),
            }
        }
        ErrorKind::ArgumentConflict => format!("{name} was given more than once; give it once"),
        ErrorKind::InvalidValue | ErrorKind::NoEquals | ErrorKind::WrongNumberOfValues => {
            format!("{name} needs a value; see --help")
        }
        ErrorKind::InvalidUtf8 => {
            "the command line is not valid UTF-8; give every flag as plain text".to_owned()
        }
        _ => "the command line cannot be understood; see --help".to_owned(),
    }
}

#[cfg(test)]
mod tests;
