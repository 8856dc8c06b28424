//! The configuration: settings from a file under those of flags and the environment, and the place of each mistake.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::printer::{Failure, Printer};
use crate::settings::{Mistake, Settings};

/// Where a store is if nobody says.
pub(crate) const DATA: &str = "./sledge-data";

/// Look at a configuration
#[derive(Args)]
pub(crate) struct ConfigCommand {
    #[command(subcommand)]
    command: Config,
}

#[derive(Subcommand)]
enum Config {
    /// Say what is wrong with a configuration, or that nothing is. Ends with 1 where something is
    ///
    /// Flags and variables are those of `sledge serve`: checked is what a server would be told by all of them together.
    Check {
        #[command(flatten)]
        source: Box<Source>,
    },
}

impl ConfigCommand {
    pub(crate) fn run(self, printer: Printer) -> Result<ExitCode, Failure> {
        let Config::Check { source } = self.command;
        let configuration = source.read()?;
        let mistakes = configuration.mistakes();
        for mistake in &mistakes {
            printer.note(format_args!("error: {mistake}"));
        }
        if mistakes.is_empty() {
            printer.note("the configuration is well");
        }
        Ok(if mistakes.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Where settings come from.
#[derive(Args, Clone, Debug)]
pub(crate) struct Source {
    /// A TOML file with settings; flags and variables go before it
    #[arg(long, value_name = "FILE", env = "SLEDGE_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    said: Settings,
}

impl Source {
    /// Reads the file, anew each time.
    ///
    /// # Errors
    /// When it cannot be read, and when it is no TOML, has an unknown setting or a value that a setting cannot have; the place
    /// in the file is told.
    pub(crate) fn read(&self) -> Result<Configuration, Failure> {
        let file = self.config.as_deref().map(File::read).transpose()?;
        let in_file = file.as_ref().map(|file| file.settings.clone()).unwrap_or_default();
        Ok(Configuration { settings: self.said.clone().or(in_file), said: self.said.clone(), file })
    }
}

/// Where a store is, for commands that want to know nothing else of a configuration.
#[derive(Args)]
pub(crate) struct Data {
    /// The folder of the store [default: ./sledge-data]
    #[arg(long, value_name = "DIR", env = "SLEDGE_DATA")]
    data: Option<PathBuf>,
    /// A server's configuration, which says where its store is
    #[arg(long, value_name = "FILE", env = "SLEDGE_CONFIG")]
    config: Option<PathBuf>,
}

impl Data {
    /// # Errors
    /// When it is for the configuration to say, and that cannot be read.
    pub(crate) fn folder(&self) -> Result<PathBuf, Failure> {
        let in_file = match (&self.data, &self.config) {
            (None, Some(config)) => File::read(config)?.settings.data,
            (data, _) => data.clone(),
        };
        Ok(in_file.unwrap_or_else(|| DATA.into()))
    }
}

/// What a server is told.
#[derive(Clone, Debug)]
pub(crate) struct Configuration {
    pub(crate) settings: Settings,
    /// What flags and variables say of it.
    said: Settings,
    file: Option<File>,
}

#[derive(Clone, Debug)]
struct File {
    path: PathBuf,
    text: String,
    settings: Settings,
}

impl File {
    fn read(path: &Path) -> Result<Self, Failure> {
        let of = || format!("configuration {}", path.display());
        let text = fs::read_to_string(path).map_err(|error| Failure::new(of(), error))?;
        let settings: Settings =
            toml::from_str(&text).map_err(|error| Failure::new(of(), unreadable(&text, &error)))?;
        let folder = std::path::absolute(path).map_err(|error| Failure::new(of(), error))?;
        let settings = match folder.parent() {
            Some(folder) => settings.beginning_at(folder),
            None => settings,
        };
        Ok(Self { path: path.to_owned(), text, settings })
    }

    /// The line in which a setting stands, from 1.
    fn line(&self, key: &str) -> Option<usize> {
        let document = DeTable::parse(&self.text).ok()?;
        let (first, rest) = key.split_once('.').map_or((key, None), |(first, rest)| (first, Some(rest)));
        let (mut place, value) = entry(document.get_ref(), first)?;
        if let Some(rest) = rest {
            place = match value.get_ref() {
                DeValue::Table(table) => entry(table, rest)?.0,
                // One of several tables of this name.
                DeValue::Array(tables) => {
                    tables.get(rest.parse::<usize>().ok()?.checked_sub(1)?)?.span().start
                }
                _ => return None,
            };
        }
        Some(self.text.get(..place)?.matches('\n').count() + 1)
    }
}

/// What is wrong with a file that cannot be read: the error's own words name the line, and show it. From where events begin, lines
/// may hold passwords, in headers and URLs, however they are misspelt: of these neither the line nor a value is shown.
fn unreadable(text: &str, error: &toml::de::Error) -> String {
    let start = error.span().map_or(0, |span| span.start);
    let line = text.get(..start).unwrap_or(text).matches('\n').count() + 1;
    if text.lines().take(line).any(|line| line.contains("events")) {
        return format!("line {line}: {}", without_values(error.message()));
    }
    match table_of(error.message()) {
        Some((name, table)) => format!("{error}`{name}` belongs in the table [{table}]"),
        None => error.to_string(),
    }
}

/// Words without what stands in double quotes, up to the last of them: a value may have some itself.
fn without_values(message: &str) -> String {
    match (message.find('"'), message.rfind('"')) {
        (Some(first), Some(last)) if first < last => {
            let (before, after) =
                (message.get(..first).unwrap_or_default(), message.get(last + 1..).unwrap_or_default());
            format!("{before}(not shown){after}")
        }
        _ => message.to_owned(),
    }
}

/// The table in which a setting stands that is looked for outside of it, or by its flag's name.
fn table_of(message: &str) -> Option<(String, &'static str)> {
    let name = message.strip_prefix("unknown field `")?.split('`').next()?;
    let settings = serde_json::to_value(Settings::default()).ok()?;
    ["retention", "tls", "auth", "limits"].into_iter().find_map(|table| {
        let name = name.strip_prefix(table).and_then(|name| name.strip_prefix('-')).unwrap_or(name);
        settings.get(table)?.get(name).map(|_| (name.to_owned(), table))
    })
}

/// Where a table has an entry, and that.
fn entry<'t, 'i>(table: &'t DeTable<'i>, name: &str) -> Option<(usize, &'t Spanned<DeValue<'i>>)> {
    let (found, value) = table.iter().find(|(found, _)| found.get_ref() == name)?;
    Some((found.span().start, value))
}

impl Configuration {
    /// All that is wrong, with its place.
    pub(crate) fn mistakes(&self) -> Vec<Placed> {
        self.settings.mistakes().into_iter().map(|mistake| self.place(mistake)).collect()
    }

    /// The configuration, if nothing is wrong with it.
    pub(crate) fn checked(self) -> Result<Self, Failure> {
        match self.mistakes().split_first() {
            None => Ok(self),
            Some((first, others)) => {
                let mut says = first.to_string();
                for other in others {
                    says += &format!("\nerror: {other}");
                }
                Err(Failure::new("", says))
            }
        }
    }

    fn place(&self, mistake: Mistake) -> Placed {
        let pointer = format!("/{}", mistake.key.replace('.', "/"));
        let said = serde_json::to_value(&self.said).ok();
        let by_flag = said
            .as_ref()
            .and_then(|said| said.pointer(&pointer))
            .is_some_and(|value| !(value.is_null() || value.as_array().is_some_and(Vec::is_empty)));
        // Of the tables only [tls] stands in the flags' names.
        let flag = match mistake.key.split_once('.') {
            Some(("tls", _)) | None => mistake.key.replace('.', "-"),
            Some((_, name)) => name.to_owned(),
        };
        let in_file = self.file.as_ref().filter(|_| !by_flag);
        let place = match in_file.and_then(|file| Some((file, file.line(&mistake.key)?))) {
            Some((file, line)) => format!("{}:{line}: {}", file.path.display(), mistake.key),
            None => format!("--{flag}"),
        };
        Placed { place, says: mistake.says }
    }
}

/// A mistake and where it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    place: String,
    says: String,
}

impl fmt::Display for Placed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.says)
    }
}
