//! Both daemons, over TLS and with tokens, by every route.

use futures_util::future::join_all;
use pantelegraph_tests::route::{Route, listener, tokio_listener, transmit};
use pantelegraph_tests::within;
use pantelegraph_transmitter::config::Config;
use pantelegraph_transmitter::run::RunOutcome;

use super::*;

/// The settings of a transmitter that goes this way, encrypted.
fn config(route: Route, address: SocketAddr, flags: &[&str]) -> Config {
    let mut config = route.flags(address);
    for flag in &mut config {
        *flag = flag
            .replace("http://", "https://")
            .replace("ws://", "wss://");
    }
    let mut flags = flags.to_vec();
    // The last one counts.
    let own: Vec<&str> = config.iter().map(String::as_str).collect();
    flags.extend(["--pattern", "64x48", "--count", "5"]);
    Route::settings(&[&own[..], &flags[..]].concat())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_pass_with_certificates_of_both_sides_by_every_route() {
    for route in Route::ALL {
        let authority = Authority::default();
        authority.issue(Role::Receiver, "gw");
        authority.issue(Role::Transmitter, "cam-1");
        let waiting = (route == Route::Listen).then(listener);
        let file = |name: &str| authority.file(name);
        let (cert, key, ca) = (file("gw.pem"), file("gw.key"), file("ca.pem"));
        let mut flags = vec![
            "--tls-cert",
            &cert,
            "--tls-key",
            &key,
            "--tls-client-ca",
            &ca,
        ];
        let url = waiting
            .as_ref()
            .map(|listener| format!("wss://{}", listener.local_addr().unwrap()));
        if let Some(url) = &url {
            flags.extend(["--pull", url]);
        }
        let station = Station::start(&flags).await;
        let address = match &waiting {
            Some(listener) => listener.local_addr().unwrap(),
            None => route.address(&station),
        };
        let (own, private) = (file("cam-1.pem"), file("cam-1.key"));
        let shown = ["--tls-ca", &ca, "--tls-cert", &own, "--tls-key", &private];
        let name = ["--name", "cam-1"];
        let config = config(route, address, &[&shown[..], &name].concat());
        let summary = transmit(&config, waiting.as_ref().map(tokio_listener)).await;
        assert!(
            matches!(summary.outcome, RunOutcome::Delivered),
            "{route:?}: {:?}",
            summary.outcome
        );
        assert_eq!(stored(&station), 5, "{route:?}");
        station.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_station_that_is_turned_away_loses_nothing_and_delivers_when_it_is_let_in() {
    for route in [Route::Exchange, Route::Put, Route::WebSocket, Route::Rest] {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let (secret_file, token_file) = (path("secret"), path("token"));
        std::fs::write(&secret_file, [7; 32]).unwrap();
        let expired = secret(7).token("cam-1", "upload", 1_700_000_000).unwrap();
        std::fs::write(&token_file, expired).unwrap();
        let authority = Authority::default();
        authority.issue(Role::Receiver, "gw");
        let file = |name: &str| authority.file(name);
        let (cert, key, ca) = (file("gw.pem"), file("gw.key"), file("ca.pem"));
        let station = Station::start(&[
            "--tls-cert",
            &cert,
            "--tls-key",
            &key,
            "--token-key-file",
            &secret_file,
        ])
        .await;
        let admin = Caller::encrypted(authority.client(None));
        let admin = admin.bearing(&token(&secret(7), "root", "admin"));
        let shown = [
            "--tls-ca",
            &ca,
            "--token-file",
            &token_file,
            "--name",
            "cam-1",
        ];
        // An image that is turned away does not use up its attempts.
        let patience = ["--retry-attempts", "1"];
        let config = config(
            route,
            route.address(&station),
            &[&shown[..], &patience].concat(),
        );
        let running = tokio::spawn(async move { transmit(&config, None).await });
        for (reason, next) in [
            ("expired-token", token(&secret(8), "cam-1", "upload")),
            ("token-signature", token(&secret(7), "cam-1", "read")),
            ("scope", token(&secret(7), "cam-1", "upload")),
        ] {
            within(reason, async {
                while refused(&admin, &station, reason).await == 0 {
                    tokio::task::yield_now().await;
                }
            })
            .await;
            assert_eq!(stored(&station), 0, "{route:?}");
            authority.write("token", &next);
            std::fs::copy(authority.path("token"), &token_file).unwrap();
        }
        let summary = running.await.unwrap();
        assert!(
            matches!(summary.outcome, RunOutcome::Delivered),
            "{route:?}: {:?}",
            summary.outcome
        );
        assert_eq!(stored(&station), 5, "{route:?}");
        station.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_station_that_stays_turned_away_gives_up_alike_by_every_route() {
    let authority = Authority::default();
    authority.issue(Role::Receiver, "gw");
    let file = |name: &str| authority.file(name);
    let (cert, key, ca) = (file("gw.pem"), file("gw.key"), file("ca.pem"));
    authority.write("secret", "a secret of thirty-two bytes ...");
    let (secret_file, token_file) = (file("secret"), file("token"));
    let known = TokenKey::from_secret(Secret::new(std::fs::read(&secret_file).unwrap())).unwrap();
    let station = Station::start(&[
        "--tls-cert",
        &cert,
        "--tls-key",
        &key,
        "--token-key-file",
        &secret_file,
    ])
    .await;
    let shown = ["--tls-ca", &ca, "--token-file", &token_file];
    let shown = [&shown[..], &["--name", "cam-2"]].concat();
    let flags = [&shown[..], &["--give-up-after", "1s"]].concat();
    let own = "--name has to be the name in its token or certificate";
    for (token, words) in [
        (token(&known, "cam-1", "upload"), own),
        (token(&known, "cam-2", "read"), own),
        (
            known.token("cam-2", "upload", 1_700_000_000).unwrap(),
            "renew the token",
        ),
    ] {
        authority.write("token", &token);
        let routes = [Route::Exchange, Route::Put, Route::WebSocket, Route::Rest];
        let ended = routes.map(|route| {
            let config = config(route, route.address(&station), &flags);
            tokio::spawn(async move { (route, transmit(&config, None).await) })
        });
        for ended in join_all(ended).await {
            let (route, summary) = ended.unwrap();
            match &summary.outcome {
                RunOutcome::Unreachable(problem) => {
                    assert!(
                        problem.contains("does not let this station in"),
                        "{problem}"
                    );
                    assert!(problem.contains(words), "{route:?}: {problem}");
                }
                other => panic!("{route:?}: {other:?}"),
            }
            let report = &summary.reports[0];
            let totals = &report.totals;
            assert_eq!(
                (totals.lost, totals.owed),
                (0, totals.captured),
                "{route:?}"
            );
            let wire = report.wire.as_ref();
            let in_vain = wire.map_or(0, |wire| wire.image_bytes_sent);
            assert_eq!(in_vain, 0, "{route:?}");
        }
    }
    assert_eq!(stored(&station), 0);
    station.stop().await;
}
