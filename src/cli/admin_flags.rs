//! Flags of commands for the running relay: its admin address, trust in its certificate, and the admin token.

use std::path::PathBuf;

use clap::Args;

use super::CommandError;
use super::admin_client::AdminClient;
use super::config_file::ConfigFile;
use gupd_config::{Config, Overrides, Problems};

/// Flags of commands that need no other part of the configuration.
#[derive(Clone, Debug, Args)]
pub(super) struct AdminFlags {
    #[command(flatten)]
    file: ConfigFile,
    #[command(flatten)]
    access: AdminAccess,
}

/// The way to the admin address.
#[derive(Clone, Debug, Args)]
pub(super) struct AdminAccess {
    /// Admin address of the relay [default: server.admin of the configuration, or 127.0.0.1:9467].
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
    /// Issuers of the relay's certificate, for a relay of another machine whose admin address speaks TLS.
    #[arg(long, value_name = "PEM")]
    admin_ca: Option<PathBuf>,
    /// File with the admin token [default: server.admin_token_file of the configuration].
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl AdminFlags {
    pub(super) fn load(&self) -> Result<Config, Problems> {
        self.file.load_without_upstreams(&self.access.overrides())
    }

    /// Connects to read the addresses of clients.
    pub(super) fn client_for_reading(&self) -> Result<AdminClient, CommandError> {
        let config = self.load()?;
        let client = match &self.access.token_file {
            Some(given) => AdminClient::with_token(&config, given),
            None => AdminClient::for_reading(&config),
        };
        client.map(|client| self.access.with_issuers(client))
    }

    /// Connects with the admin token. `command` is the subcommand, for the error.
    pub(super) fn client_with_token(&self, command: &str) -> Result<AdminClient, CommandError> {
        self.access.client_with_token(&self.load()?, &self.file, command)
    }
}

impl AdminAccess {
    /// Returns the settings that the flags override.
    pub(super) fn overrides(&self) -> Overrides {
        Overrides { admin: self.admin.clone(), ..Overrides::default() }
    }

    /// Connects with the admin token to the relay with this configuration, which is of `file`. `command` begins the
    /// error.
    pub(super) fn client_with_token(
        &self,
        config: &Config,
        file: &ConfigFile,
        command: &str,
    ) -> Result<AdminClient, CommandError> {
        let Some(token_file) = self.token_file.as_ref().or(config.server.admin_token_file.as_ref()) else {
            return Err(CommandError::Configuration(format!(
                "{command}: no admin token: {}",
                file.where_to_set("server.admin_token_file")
            )));
        };
        AdminClient::with_token(config, token_file).map(|client| self.with_issuers(client))
    }

    fn with_issuers(&self, client: AdminClient) -> AdminClient {
        match &self.admin_ca {
            Some(file) => client.with_issuers(file),
            None => client,
        }
    }
}
