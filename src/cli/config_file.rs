//! The configuration file of a command: the one that `--config` names, else the default file if it exists. A default
//! file that exists but cannot be read is an error, because a command without it would act on another configuration.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::{Arg, Args, value_parser};

use gupd_config::{self as config, Config, Overrides, Problems};

/// Flags that locate the configuration file.
#[derive(Clone, Debug, Args)]
pub(super) struct ConfigFile {
    /// Configuration file [default: /etc/gupd/gupd.toml if it exists].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// See [`default_file_argument`].
    #[arg(long, value_name = "FILE", hide = true, default_value = config::DEFAULT_FILE)]
    default_config: PathBuf,
}

/// Returns the hidden argument, allowed before any subcommand, that replaces the path of the default file. Tests set it,
/// because a file of the machine that runs them must not matter.
pub(super) fn default_file_argument() -> Arg {
    let argument = Arg::new("default_config").long("default-config").value_name("FILE");
    argument.value_parser(value_parser!(PathBuf)).default_value(config::DEFAULT_FILE).hide(true).global(true)
}

impl ConfigFile {
    /// Returns the path of the file; `None` without one.
    pub(super) fn path(&self) -> Option<&Path> {
        self.config
            .as_deref()
            .or_else(|| is_present(&self.default_config).then_some(self.default_config.as_path()))
    }

    /// Loads the configuration.
    pub(super) fn load(&self, overrides: &Overrides) -> Result<Config, Problems> {
        refuse_unsupported(Config::load(overrides, self.path(), config::environment())?)
    }

    /// Loads the configuration for the start of a relay: a file without upstreams is only a warning.
    pub(super) fn load_for_start(&self, overrides: &Overrides) -> Result<Config, Problems> {
        refuse_unsupported(Config::load_for_start(overrides, self.path(), config::environment())?)
    }

    /// Loads the configuration of a command that needs no upstream.
    pub(super) fn load_without_upstreams(&self, overrides: &Overrides) -> Result<Config, Problems> {
        Config::load_without_upstreams(overrides, self.path(), config::environment())
    }

    /// Returns the place where the administrator must set a missing setting.
    pub(super) fn where_to_set(&self, setting: &str) -> String {
        match self.path() {
            Some(path) => format!("set {setting} in {}", path.display()),
            None => format!(
                "there is no {}: set {setting} in the configuration of the relay, and pass it with --config",
                self.default_config.display()
            ),
        }
    }
}

/// Refuses settings for which this program was not built: a relay must not start without what its file asks for.
fn refuse_unsupported(config: Config) -> Result<Config, Problems> {
    match config.traces.unsupported() {
        Some(problem) if cfg!(not(feature = "otlp")) => Err(problem.into()),
        _ => Ok(config),
    }
}

fn is_present(path: &Path) -> bool {
    // A folder that cannot be searched may have it.
    let is_missing = |kind| matches!(kind, ErrorKind::NotFound | ErrorKind::NotADirectory);
    path.symlink_metadata().map_or_else(|error| !is_missing(error.kind()), |_| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(config: Option<&Path>, default_config: &Path) -> ConfigFile {
        ConfigFile { config: config.map(Path::to_owned), default_config: default_config.to_owned() }
    }

    #[test]
    fn given_file_precedes_the_default_which_must_exist() {
        let folder = tempfile::tempdir().unwrap();
        let (default, given) = (folder.path().join("default.toml"), folder.path().join("given.toml"));
        assert_eq!(file(None, &default).path(), None);
        assert_eq!(file(None, &default.join("below")).path(), None);
        std::fs::write(&default, "").unwrap();
        assert_eq!(file(None, &default).path(), Some(default.as_path()));
        assert_eq!(file(None, &default.join("below")).path(), None);
        assert_eq!(file(Some(&given), &default).path(), Some(given.as_path()));
        // A dangling link is a mistake, not the absence of a file.
        let link = folder.path().join("link.toml");
        std::os::unix::fs::symlink(&given, &link).unwrap();
        assert_eq!(file(None, &link).path(), Some(link.as_path()));
    }

    #[test]
    fn missing_setting_names_the_file_that_was_read() {
        let folder = tempfile::tempdir().unwrap();
        let default = folder.path().join("gupd.toml");
        let none = file(None, &default).where_to_set("server.admin_token_file");
        assert!(none.starts_with(&format!("there is no {}", default.display())), "{none}");
        std::fs::write(&default, "").unwrap();
        let found = file(None, &default).where_to_set("server.admin_token_file");
        assert_eq!(found, format!("set server.admin_token_file in {}", default.display()));
    }
}
