//! The command line of `pantelegraph doctor`.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use shared::settings::units::parse_duration;

use crate::doctor::Group;

/// What is looked at, and how it is told. It stands before the station's name: what stands behind that
/// belongs to the station.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Form of what is found: json is one document, for programs
    #[arg(long, default_value = "text", value_name = "FORM")]
    pub(crate) format: Format,
    /// Looks at these only
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "GROUP",
        conflicts_with = "skip"
    )]
    pub(crate) only: Vec<Group>,
    /// Leaves these out
    #[arg(long, value_delimiter = ',', value_name = "GROUP")]
    pub(crate) skip: Vec<Group>,
    /// Time for each look at the network
    #[arg(long, default_value = "5s", value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
    /// Writes nothing to the disk, not even for a moment
    #[arg(long)]
    pub(crate) no_disk_test: bool,
    /// Ends with 1 when there are warnings, too
    #[arg(long)]
    pub(crate) strict: bool,
    #[command(subcommand)]
    pub(crate) station: Station,
}

impl Doctor {
    /// Whether this group is looked at.
    pub(crate) fn wants(&self, group: Group) -> bool {
        match self.only.is_empty() {
            true => !self.skip.contains(&group),
            false => self.only.contains(&group),
        }
    }
}

/// Form of what is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

/// Whose settings these are.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Station {
    /// A transmitter, with the settings that it would have here
    #[command(disable_help_flag = true)]
    Transmitter {
        /// Its settings; those of variables (TRANSMITTER_...) and .env count as well
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "SETTINGS"
        )]
        settings: Vec<OsString>,
    },
    /// A receiver, with the settings that it would have here
    #[command(disable_help_flag = true)]
    Receiver {
        /// Its settings; those of variables (RECEIVER_...) and .env count as well
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "SETTINGS"
        )]
        settings: Vec<OsString>,
    },
    /// A user service, with the settings that it would have here
    #[command(disable_help_flag = true)]
    Users {
        /// Its settings; those of variables (USERS_...) and .env count as well
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "SETTINGS"
        )]
        settings: Vec<OsString>,
    },
}

impl Station {
    /// The word for it.
    pub(crate) fn key(&self) -> &'static str {
        match self {
            Self::Transmitter { .. } => "transmitter",
            Self::Receiver { .. } => "receiver",
            Self::Users { .. } => "users",
        }
    }
}
