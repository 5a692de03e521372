//! The command line of `pantelegraph users`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use shared::settings::units::parse_duration;
use users::client::Over;

#[derive(Debug, Subcommand)]
pub(crate) enum Users {
    /// Starts a server, calls it in every way there is, provokes its errors, and stops it.
    #[command(after_help = "\
Examples:
  pantelegraph users demo
  pantelegraph users demo --over rest
  pantelegraph users demo --server http://127.0.0.1:50051   a server that runs already

With --server, the token must have the scopes read and upload, but not admin.

Exit codes: 0 everything was as it should be; 1 something was not; 2 usage")]
    Demo(DemoOptions),
    /// Serves users until a signal; `serve --help` shows its settings.
    #[command(disable_help_flag = true)]
    Serve {
        /// Settings; each can also be set by a variable (USERS_...), in `.env` or in a file
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "SETTINGS"
        )]
        settings: Vec<OsString>,
    },
    /// Makes one call to a server that runs.
    #[command(after_help = "\
Examples:
  pantelegraph users call get-user --id 1
  pantelegraph users call list-users --over rest --output json
  pantelegraph users call create-user --name Ada --email ada@example.com --age 36
  pantelegraph users call chat --user Ada --say hello
  pantelegraph users call get-user --id 1 --server http://10.0.0.1:50051,http://10.0.0.2:50051
  pantelegraph users call list-users --follow --server dns:///users.internal:50051
  pantelegraph users call get-user --id 1 --server https://users.internal:50051 --tls-ca ca.pem

Exit codes: 0 done; 1 the call failed, its code is the first word on standard error; 2 usage;
130 Ctrl-C before the answer (0 for what has no end)")]
    Call {
        #[command(subcommand)]
        call: Call,
        #[command(flatten)]
        how: How,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DemoOptions {
    /// Server that runs already [default: one is started]
    #[arg(long, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// Face that is called: grpc, rest or graphql
    #[arg(long, default_value = "grpc", value_name = "FACE")]
    pub(crate) over: Over,
    #[command(flatten)]
    pub(crate) shown: Shown,
}

/// What a client shows, and whom it trusts.
#[derive(Debug, Args)]
#[command(next_help_heading = "Security")]
pub(crate) struct Shown {
    /// File with a token to show [default: that in PANTELEGRAPH_TOKEN, if it is set]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// With https://: trust servers whose certificate this CA has signed [default: whom the system trusts]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// Show the certificate in this file
    #[arg(long, global = true, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The private key to it
    #[arg(long, global = true, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Certificates in this list are revoked, those of servers too
    #[arg(long, global = true, value_name = "FILE", requires = "tls_ca")]
    pub(crate) tls_crl: Option<PathBuf>,
}

/// How a call is made.
#[derive(Debug, Args)]
pub(crate) struct How {
    /// Face that is called: grpc, rest or graphql
    #[arg(long, global = true, default_value = "grpc", value_name = "FACE")]
    pub(crate) over: Over,
    /// Server [default: gRPC http://127.0.0.1:50051, others http://127.0.0.1:8000]; with gRPC also
    /// several with commas, or dns:///HOST:PORT; encrypted with https:// and dns+https:///
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// Time for a call that is not a stream
    #[arg(long, global = true, default_value = "5s", value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) deadline: Duration,
    /// Form of the answers: json is one object a line
    #[arg(long, global = true, default_value = "text", value_name = "FORM")]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) shown: Shown,
}

/// Form of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Call {
    /// One user (unary)
    GetUser {
        /// Its id
        #[arg(long, value_name = "N", allow_negative_numbers = true)]
        id: i32,
    },
    /// Creates a user (unary)
    CreateUser {
        /// Name
        #[arg(long)]
        name: String,
        /// Address
        #[arg(long)]
        email: String,
        /// Years
        #[arg(long, value_name = "N", allow_negative_numbers = true)]
        age: i32,
        /// Role; several times for several
        #[arg(long, value_name = "ROLE")]
        role: Vec<String>,
    },
    /// Users by their ids (server streaming)
    ListUsers {
        /// At most so many; 0 is all
        #[arg(
            long,
            default_value_t = 0,
            value_name = "N",
            allow_negative_numbers = true
        )]
        limit: i32,
        /// Begins after this id
        #[arg(
            long,
            default_value_t = 0,
            value_name = "ID",
            allow_negative_numbers = true
        )]
        after: i32,
        /// Goes on with users as they are created, until Ctrl-C
        #[arg(long)]
        follow: bool,
    },
    /// Creates users, all or none (client streaming)
    BatchCreateUsers(Source),
    /// Creates users one by one, each answered (bidirectional)
    StreamUsers {
        #[command(flatten)]
        source: Source,
        /// All answers after the last user
        #[arg(long)]
        after_all: bool,
    },
    /// Hears what is said, until Ctrl-C or --count (bidirectional)
    Chat {
        /// Who speaks
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        /// Says this; several times for several messages; without it, lines of standard input
        #[arg(long, value_name = "TEXT", requires = "user")]
        say: Vec<String>,
        /// Ends after so many messages were heard
        #[arg(long, value_name = "N")]
        count: Option<u64>,
    },
    /// Answers what it was sent (unary)
    Echo {
        /// What is sent; several times for several strings
        #[arg(long, value_name = "TEXT")]
        payload: Vec<String>,
        /// Answers after this time
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        delay: Option<Duration>,
        /// Answers with this status, by its number in google.rpc.Code
        #[arg(
            long,
            default_value_t = 0,
            value_name = "N",
            allow_negative_numbers = true
        )]
        code: i32,
    },
}

/// Where users come from.
#[derive(Debug, Args)]
pub(crate) struct Source {
    /// One user a line as JSON: {\"name\":..., \"email\":..., \"age\":..., \"roles\":[...]}; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "count")]
    pub(crate) file: Option<PathBuf>,
    /// Makes so many users up
    #[arg(long, default_value_t = 3, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) count: u32,
}
