//! The command line of `pantelegraph keys`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use shared::security::access::Scope;
use shared::security::identity::Role;
use shared::settings::units::parse_duration;

#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 done; 1 not done, or `show --check` has found something; 2 usage, such as a station that is not there")]
pub(crate) struct Keys {
    /// Folder of the CA, and of what it has issued
    #[arg(
        long,
        global = true,
        default_value = "keys",
        env = "PANTELEGRAPH_KEYS",
        value_name = "DIR"
    )]
    pub(crate) dir: PathBuf,
    #[command(subcommand)]
    pub(crate) command: KeysCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Makes a private CA, an empty list of revoked certificates, and a key for tokens.
    #[command(after_help = "\
Examples:
  pantelegraph keys init
  pantelegraph keys init --trust-domain cameras.example --dir /root/keys

Keep the folder where only you can read it: whoever has ca.key can make any certificate, and whoever
has token.key any token.")]
    Init(Init),
    /// Makes a certificate and its private key.
    #[command(after_help = "\
Examples:
  pantelegraph keys issue transmitter cam-1
  pantelegraph keys issue receiver --name gw.example --ip 192.0.2.7
  pantelegraph keys issue receiver gw --name gw.example --valid 30d
  pantelegraph keys issue transmitter cam-2 --name cam-2.local    one that waits with --listen
  pantelegraph keys issue reader grafana

Copy the folder that it names to the station; it holds what its three TLS settings ask for.")]
    Issue(Issue),
    /// Makes new certificates for stations that have one; private keys stay.
    #[command(after_help = "\
Examples:
  pantelegraph keys renew cam-1
  pantelegraph keys renew --all --within 30d      what expires in the next thirty days
  pantelegraph keys renew cam-1 --new-key         with a new private key

Daemons notice new files by themselves; connections that are open stay.")]
    Renew(Renew),
    /// Puts certificates on the list of revoked ones.
    #[command(after_help = "\
Examples:
  pantelegraph keys revoke cam-1                  every certificate of cam-1
  pantelegraph keys revoke --serial 5f9a3c01      the one whose number begins so
  pantelegraph keys revoke --new-list             where revoked.pem is lost, and no receiver has a copy

Copy revoked.pem to the receivers (--tls-crl): they notice by themselves, and end connections of revoked
stations.")]
    Revoke(Revoke),
    /// Shows what has been issued, and until when it is valid.
    #[command(after_help = "\
Examples:
  pantelegraph keys show
  pantelegraph keys show --check 14d              exit code 1 if something expires by then, or is of another CA
  pantelegraph keys show /etc/pantelegraph/cert.pem")]
    Show(Show),
    /// Makes a token.
    #[command(after_help = "\
Examples:
  pantelegraph keys token --subject cam-1 --expires 30d --scope upload
  pantelegraph keys token --subject ada --scope read,admin --expires 8h --output ada.token
  pantelegraph keys token --subject cam-1 --key secret.txt        HS256, with a secret of your own

Whoever has a token is its subject: keep it in a file that only the station can read.")]
    Token(Token),
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Name of the world in which these certificates count: small letters, digits, dots
    #[arg(long, default_value = "pantelegraph", value_name = "DOMAIN")]
    pub(crate) trust_domain: String,
    /// How long the CA's certificate is valid
    #[arg(long, default_value = "3650d", value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) valid: Duration,
    /// Signature of tokens
    #[arg(long, default_value = "eddsa", value_name = "ALGORITHM")]
    pub(crate) tokens: TokenAlgorithm,
    /// Puts new keys in the place of those that are there: everything that was issued counts no more
    #[arg(long)]
    pub(crate) force: bool,
}

/// Signatures of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TokenAlgorithm {
    /// Ed25519: receivers get the public half, with which nobody can make tokens
    Eddsa,
    /// HMAC SHA-256: a secret that both sides have
    Hs256,
}

#[derive(Debug, Args)]
pub(crate) struct Issue {
    /// transmitter, receiver, reader, admin or gateway
    pub(crate) role: Role,
    /// Name of the station [default: the first --name]
    #[arg(value_name = "STATION", required_unless_present = "name")]
    pub(crate) station: Option<String>,
    /// Name by which it is dialled; several times for several
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Vec<String>,
    /// Address by which it is dialled; several times for several
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) ip: Vec<IpAddr>,
    /// How long it is valid
    #[arg(long, default_value = "90d", value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) valid: Duration,
    /// Puts a new private key in the place of the one that is there
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Renew {
    /// Names of stations
    #[arg(
        value_name = "STATION",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    pub(crate) stations: Vec<String>,
    /// All stations
    #[arg(long)]
    pub(crate) all: bool,
    /// Only what expires within this time
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) within: Option<Duration>,
    /// How long it is valid
    #[arg(long, default_value = "90d", value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) valid: Duration,
    /// With a new private key, in the place of the one that is there
    #[arg(long)]
    pub(crate) new_key: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Revoke {
    /// Names of stations
    #[arg(value_name = "STATION", required_unless_present_any = ["serial", "new_list"])]
    pub(crate) stations: Vec<String>,
    /// Number of a certificate, as `keys show` has it, or its first digits, at least eight; several times
    /// for several
    #[arg(long, value_name = "HEX")]
    pub(crate) serial: Vec<String>,
    /// Makes a new list where revoked.pem is missing or damaged: what was revoked before is on it as far as
    /// the folder knows
    #[arg(long)]
    pub(crate) new_list: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// Certificates to show [default: everything in the folder]
    #[arg(value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Also those that have been replaced
    #[arg(long)]
    pub(crate) all: bool,
    /// Exit code 1 when something expires within this time, is of another CA, or the folder is damaged
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) check: Option<Duration>,
    /// Prints JSON, one object a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Token {
    /// Whose it is: the name of the transmitter that uploads with it
    #[arg(long, value_name = "NAME")]
    pub(crate) subject: String,
    /// What it allows: upload, read, admin
    #[arg(long, required = true, value_delimiter = ',', value_name = "SCOPE")]
    pub(crate) scope: Vec<Scope>,
    /// How long it is valid
    #[arg(long, default_value = "30d", value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) expires: Duration,
    /// Whom it is for
    #[arg(long, default_value = shared::security::tokens::AUDIENCE, value_name = "NAME")]
    pub(crate) audience: String,
    /// File with the key that signs it [default: token.key in the folder]
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// Writes it to a file that only you can read, in place of standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Replaces the file that is there
    #[arg(long, requires = "output")]
    pub(crate) force: bool,
}
