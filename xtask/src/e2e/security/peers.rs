//! OpenSSL, curl and Python's gRPC get in, or not, as they should.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::{Keys, LIMIT, Receiver, curl, expect_status};
use crate::console;
use crate::e2e::process::Process;
use crate::e2e::{Site, tools};

const CONTRACT: &str = "pantelegraph/transfer/v1/transfer.proto";

pub(super) fn run(site: &Site, keys: &Keys, image: &Path) -> Result<()> {
    let receiver = Receiver::start(site, &site.folder("peers")?, &keys.receiver()?)?;
    openssl(keys, &receiver).context("openssl s_client")?;
    with_curl(keys, &receiver, image)?;
    python(site, keys, &receiver, image).context("Python's gRPC")?;
    let log = receiver.log();
    for words in [
        "it shows no certificate",
        "is revoked",
        "it does not speak TLS",
        "lacks the scope",
    ] {
        ensure!(
            log.contains(words),
            "the receiver's log says nothing of {words:?}:\n{log}"
        );
    }
    receiver.stop()
}

/// Shakes hands, sends a request, and gives everything that came.
fn s_client(keys: &Keys, receiver: &Receiver, who: Option<&str>, args: &[&str]) -> Result<String> {
    let mut command = Command::new("openssl");
    command.args([
        "s_client",
        "-connect",
        &receiver.http,
        "-verify_return_error",
        "-ign_eof",
    ]);
    command.args(["-CAfile", &keys.file("ca.pem")?]).args(args);
    if let Some(who) = who {
        command.args(["-cert", &keys.file(&format!("{who}/cert.pem"))?]);
        command.args(["-key", &keys.file(&format!("{who}/key.pem"))?]);
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("running openssl")?;
    let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    if let Some(mut stdin) = child.stdin.take() {
        // It may be gone already.
        let _ = stdin.write_all(request);
    }
    let output = child.wait_with_output()?;
    let text = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn openssl(keys: &Keys, receiver: &Receiver) -> Result<()> {
    let good = s_client(keys, receiver, Some("e2e"), &["-alpn", "http/1.1"])?;
    for words in [
        "TLSv1.3",
        "Verify return code: 0 (ok)",
        "ALPN protocol: http/1.1",
        "HTTP/1.1 200 OK",
    ] {
        ensure!(
            good.contains(words),
            "no {words:?} with a good certificate:\n{good}"
        );
    }
    console::passed("openssl s_client with a certificate: TLS 1.3, verified, answered");
    for (case, who, args, words) in [
        (
            "without a certificate",
            None,
            &[][..],
            "certificate required",
        ),
        ("revoked", Some("stolen"), &[], "certificate revoked"),
        ("TLS 1.2", Some("e2e"), &["-tls1_2"], "protocol version"),
        (
            "an unknown protocol",
            Some("e2e"),
            &["-alpn", "imap"],
            "no application protocol",
        ),
    ] {
        let text = s_client(keys, receiver, who, args)?;
        ensure!(
            !text.contains("HTTP/1.1 200"),
            "{case}: it was answered:\n{text}"
        );
        ensure!(text.contains(words), "{case}: no {words:?}:\n{text}");
        console::passed(format_args!("openssl s_client, {case}: {words}"));
    }
    Ok(())
}

fn with_curl(keys: &Keys, receiver: &Receiver, image: &Path) -> Result<()> {
    let base = format!("https://{}", receiver.http);
    let path = tools::text(image)?;
    let id = "0191d4a8-7d3c-7c5a-9e5b-1f2a3b4c5d6e";
    let url = format!("{base}/v1/images/{id}");
    let put = ["--upload-file", path, "--header", "Expect:"];
    expect_status("an image", &curl(keys, Some("e2e"), &url, &put)?, 201)?;
    let read = curl(keys, Some("eye"), &url, &[])?;
    expect_status("a reader reads it", &read, 200)?;
    ensure!(read.body == std::fs::read(image)?, "other bytes came back");
    let listed = curl(keys, Some("eye"), &format!("{base}/v1/images"), &[])?;
    let listed: serde_json::Value = serde_json::from_slice(&listed.body)?;
    ensure!(listed["images"][0]["transmitter"] == "e2e", "{listed}");
    expect_status(
        "a camera does not read",
        &curl(keys, Some("e2e"), &url, &[])?,
        403,
    )?;
    let other = "0191d4a8-7d3c-7c5a-9e5b-1f2a3b4c5d6f";
    let other = format!("{base}/v1/images/{other}");
    expect_status(
        "a reader does not upload",
        &curl(keys, Some("eye"), &other, &put)?,
        403,
    )?;
    let named = [&put[..], &["--header", "pantelegraph-transmitter: e2e"]].concat();
    expect_status(
        "nor another camera in its name",
        &curl(keys, Some("cam-2"), &other, &named)?,
        403,
    )?;
    let deleted = curl(
        keys,
        Some("cam-2"),
        &format!("{base}/v1/uploads/{id}"),
        &["--request", "DELETE", "--header", "Tus-Resumable: 1.0.0"],
    )?;
    expect_status("nor does it end what is another's", &deleted, 403)?;
    for (case, who, url) in [
        ("no certificate", None, url.clone()),
        ("a revoked one", Some("stolen"), url.clone()),
        ("plain text", Some("e2e"), url.replace("https:", "http:")),
    ] {
        let curled = curl(keys, who, &url, &[])?;
        ensure!(
            curled.status == 0,
            "{case}: answered with {}",
            curled.status
        );
        console::passed(format_args!("curl, {case}: {}", curled.words.trim()));
    }
    Ok(())
}

fn python(site: &Site, keys: &Keys, receiver: &Receiver, image: &Path) -> Result<()> {
    let requirements = site.root.join("tests/e2e/peers/requirements.txt");
    let python = tools::python(site, &requirements)?;
    let generated = tools::generate(site, &python, CONTRACT)?;
    let script = site.root.join("tests/e2e/security/grpc_secure.py");
    let folder = site.folder("python")?;
    let put = |address: &str, who: &str, token: &str, name: &str| -> Result<String> {
        let mut command = Command::new(&python);
        command
            .env("PYTHONPATH", &generated)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .arg(&script)
            .arg(address.replace("127.0.0.1", "localhost"))
            .arg(keys.file("ca.pem")?);
        for file in ["cert.pem", "key.pem"] {
            let path = match who {
                "" => String::new(),
                who => keys.file(&format!("{who}/{file}"))?,
            };
            command.arg(path);
        }
        command.arg(token).arg(image).arg(name);
        let ended = Process::start("grpc_secure", &mut command, &folder)?.succeed(LIMIT)?;
        Ok(ended.output.join("\n"))
    };
    for (case, who, name, expected) in [
        ("its own certificate", "e2e", "e2e", "OK"),
        ("another's name", "e2e", "cam-2", "PERMISSION_DENIED"),
        ("a reader", "eye", "eye", "PERMISSION_DENIED"),
        ("no certificate", "", "e2e", "UNAVAILABLE"),
        ("a revoked one", "stolen", "stolen", "UNAVAILABLE"),
    ] {
        let answer = put(&receiver.grpc, who, "", name)?;
        ensure!(answer.starts_with(expected), "{case}: {answer}");
        console::passed(format_args!("grpcio with {case}: {answer}"));
    }
    // Tokens in place of certificates, over TLS of one side.
    let mut flags = keys.receiver()?;
    flags.truncate(4);
    flags.extend(["--token-key-file".to_owned(), keys.file("token.pub")?]);
    let tokens = Receiver::start(site, &site.folder("tokens")?, &flags)?;
    let good = keys.call(&["token", "--subject", "e2e", "--scope", "upload"])?;
    for (case, token, expected) in [
        ("a token", good.trim(), "OK"),
        ("no token", "", "UNAUTHENTICATED Missing token"),
        (
            "a broken one",
            "a.b.c",
            "UNAUTHENTICATED Token cannot be read",
        ),
    ] {
        let answer = put(&tokens.grpc, "", token, "e2e")?;
        ensure!(answer.starts_with(expected), "{case}: {answer}");
        console::passed(format_args!("grpcio with {case}: {answer}"));
    }
    tokens.stop()
}
