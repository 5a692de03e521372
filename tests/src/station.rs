//! A receiver in this process, with a data folder of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pantelegraph_receiver::cli::Invocation;
use pantelegraph_receiver::config::Config;
use pantelegraph_receiver::server::{Listeners, Receiver};
use serde_json::Value;
use shared::image::ImageId;
use shared::report::Report;
use tempfile::TempDir;

use crate::http::{Answer, get};
use crate::within;

/// Name that the receivers of the tests go by.
pub const NAME: &str = "station";

/// The folder of a receiver; outlives it.
#[derive(Debug, Clone)]
pub struct Data(Arc<TempDir>);

impl Default for Data {
    fn default() -> Self {
        Self(Arc::new(tempfile::tempdir().expect("a temporary folder")))
    }
}

impl Data {
    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// All files that are visible as images.
    pub fn images(&self) -> Vec<PathBuf> {
        files_below(&self.path().join("images"))
    }

    /// All files that are kept apart.
    pub fn quarantine(&self) -> Vec<PathBuf> {
        files_below(&self.path().join("quarantine"))
    }

    /// All files that are being written.
    pub fn incoming(&self) -> Vec<PathBuf> {
        files_below(&self.path().join("incoming"))
    }
}

/// All files below `folder`, however deep.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The settings of a receiver on free ports.
///
/// # Panics
/// When `flags` are wrong.
pub fn receiver_config(data: &Path, flags: &[&str]) -> Config {
    receiver_config_in(&[], data, flags)
}

/// The same in an environment with these variables.
///
/// # Panics
/// When one of them is wrong.
pub fn receiver_config_in(environment: &[(&str, &str)], data: &Path, flags: &[&str]) -> Config {
    let data = data.to_str().expect("temporary folders have plain names");
    let mut args = vec!["pantelegraph-receiver", "--data", data];
    let defaults = [
        ("--grpc-listen", "127.0.0.1:0"),
        ("--http-listen", "127.0.0.1:0"),
        ("--name", NAME),
        ("--durability", "written"),
    ];
    for (flag, value) in defaults {
        if !flags.contains(&flag) {
            args.extend([flag, value]);
        }
    }
    args.extend(flags);
    let environment: BTreeMap<String, String> = environment
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let args = args.into_iter().map(Into::into);
    match pantelegraph_receiver::cli::parse(args, &environment, None) {
        Ok(Invocation::Run(config, _)) => *config,
        Ok(Invocation::Print(text)) => panic!("{text}"),
        Err(error) => panic!("{error}"),
    }
}

/// A running receiver.
pub struct Station {
    receiver: Receiver,
    data: Data,
}

impl Station {
    /// A receiver with an empty folder and these flags.
    pub async fn start(flags: &[&str]) -> Self {
        Self::start_on(Data::default(), flags).await
    }

    /// A receiver on a folder that may hold images already.
    ///
    /// # Panics
    /// When it cannot start.
    pub async fn start_on(data: Data, flags: &[&str]) -> Self {
        let config = receiver_config(data.path(), flags);
        Self::start_as(config, data).await
    }

    /// A receiver with these settings, of which `data` is the folder.
    ///
    /// # Panics
    /// When it cannot start.
    pub async fn start_as(config: Config, data: Data) -> Self {
        let listeners = Listeners::open(&config)
            .await
            .expect("port 0 is always free");
        let receiver = Receiver::start(config, listeners)
            .await
            .expect("the folder can be used");
        Self { receiver, data }
    }

    /// Where gRPC is served.
    ///
    /// # Panics
    /// When it is off.
    pub fn grpc(&self) -> SocketAddr {
        self.receiver.grpc_address.expect("gRPC is on")
    }

    /// Where HTTP is served.
    ///
    /// # Panics
    /// When it is off.
    pub fn http(&self) -> SocketAddr {
        self.receiver.http_address.expect("HTTP is on")
    }

    /// Where everything is.
    ///
    /// # Panics
    /// When that is off.
    pub fn all(&self) -> SocketAddr {
        self.receiver.all_address.expect("it is on")
    }

    /// The receiver.
    pub fn receiver(&self) -> &Receiver {
        &self.receiver
    }

    /// Its folder.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// `GET` from it.
    pub async fn get(&self, path: &str) -> Answer {
        get(self.http(), path).await
    }

    /// All images that it lists, stored or quarantined by `status`.
    pub async fn listed(&self, status: &str) -> Vec<Value> {
        let path = format!("/v1/images?limit=1000&status={status}");
        let page = self.get(&path).await.json();
        assert_eq!(page["next"], Value::Null, "more than one page");
        page["images"].as_array().expect("a list of images").clone()
    }

    /// Its report of the only series of `run`.
    ///
    /// # Panics
    /// When there is none.
    pub async fn report(&self, run: &str) -> Report {
        let answer = self.get(&format!("/v1/report?run={run}&format=json")).await;
        serde_json::from_value(answer.json()).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
    }

    /// Checks that it shows just the images `ids`, as files and in its lists, and that nothing is
    /// left of others.
    ///
    /// # Panics
    /// When it is otherwise.
    pub async fn shows_only(&self, ids: &[ImageId]) {
        let mut expected: Vec<String> = ids.iter().map(ToString::to_string).collect();
        expected.sort();
        let listed = self.listed("stored").await;
        let mut listed: Vec<&str> = listed
            .iter()
            .filter_map(|image| image["image_id"].as_str())
            .collect();
        listed.sort_unstable();
        assert_eq!(listed, expected, "the list of images");
        let files = self.data.images();
        let mut names: Vec<&str> = files
            .iter()
            .filter_map(|file| file.file_stem().and_then(|name| name.to_str()))
            .collect();
        names.sort_unstable();
        assert_eq!(names, expected, "the files of images");
        // What was refused is removed in the background.
        within("the removal of what was refused", async {
            while !self.data.incoming().is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// Stops it in order, as a signal does, and hands its folder back.
    pub async fn stop(self) -> Data {
        within("stopping the receiver", self.receiver.stop()).await;
        self.data
    }
}
