use std::collections::BTreeMap;

use super::*;
use crate::settings::{Group, Program, Request, Values, read};

static PROGRAM: Program = Program {
    name: "example",
    version: "1",
    prefix: "EXAMPLE",
    about: "An example",
    groups: &[Group {
        heading: "Telemetry",
        settings: TELEMETRY,
    }],
    examples: "",
    exit_codes: &[],
};

fn values(variables: &[(&str, &str)]) -> Box<Values> {
    let environment: BTreeMap<String, String> = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let args = ["example".into()].into_iter();
    match read(&PROGRAM, args, &environment, None).unwrap() {
        Request::Use(values) => values,
        other => panic!("{other:?}"),
    }
}

fn settings(variables: &[(&str, &str)]) -> Result<OtlpSettings, String> {
    let mut values = values(variables);
    let settings = OtlpSettings::from_values(&mut values);
    values.finish().map_err(|error| error.to_string())?;
    Ok(settings)
}

#[test]
fn nobody_is_told_unless_somebody_is_named() {
    let settings = settings(&[]).unwrap();
    assert!(settings.traces.is_none() && settings.metrics.is_none());
    let default = OtlpSettings::default();
    assert_eq!(format!("{settings:?}"), format!("{default:?}"));
}

#[test]
fn the_variables_of_opentelemetry_count_as_they_are() {
    let settings = settings(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all.example:4317"),
        (
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
            "https://figures.example:4317",
        ),
        ("OTEL_EXPORTER_OTLP_HEADERS", "Api-Key=a%2Cb%20c, x=y"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            "deployment.environment.name=yard%201,service.name=weaker",
        ),
        ("OTEL_SERVICE_NAME", "cameras"),
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1000"),
        ("OTEL_SOMETHING_ELSE", "of others"),
    ])
    .unwrap();
    assert_eq!(
        settings.traces.as_ref().unwrap().host_str(),
        Some("all.example")
    );
    assert_eq!(settings.metrics.as_ref().unwrap().scheme(), "https");
    let headers = settings.headers.iter();
    let headers: Vec<_> = headers
        .map(|(key, value)| (key.as_str(), value.reveal()))
        .collect();
    assert_eq!(headers, [("api-key", &b"a,b c"[..]), ("x", b"y")]);
    assert_eq!(settings.timeout, Duration::from_millis(2_500));
    assert!(settings.gzip);
    assert!((settings.sampler.ratio - 0.25).abs() < f64::EPSILON && settings.sampler.obeys_parents);
    let teller = Teller {
        program: "example",
        version: "1",
        station: "cam-1".to_owned(),
    };
    let resource = settings.resource(&teller);
    let get = |key: &str| {
        let mut found = resource.iter().filter(|(known, _)| known == key);
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none());
        value
    };
    assert_eq!(get("service.name"), Some("cameras"));
    assert_eq!(get("service.instance.id"), Some("cam-1"));
    assert_eq!(get("deployment.environment.name"), Some("yard 1"));
}

#[test]
fn what_is_switched_off_is_told_to_nobody() {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://[::1]:4317");
    let told = |variable| {
        let settings = settings(&[endpoint, variable]).unwrap();
        (settings.traces.is_some(), settings.metrics.is_some())
    };
    assert_eq!(told(("OTEL_TRACES_EXPORTER", "otlp")), (true, true));
    assert_eq!(told(("OTEL_TRACES_EXPORTER", "none")), (false, true));
    assert_eq!(told(("OTEL_METRICS_EXPORTER", "none")), (true, false));
    assert_eq!(told(("OTEL_SDK_DISABLED", "true")), (false, false));
}

#[test]
fn what_a_whole_fleet_has_keeps_nobody_from_starting() {
    for variable in [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_TRACES_EXPORTER", "console"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
    ] {
        assert!(settings(&[variable]).is_ok(), "{variable:?}");
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");
        let disabled = ("OTEL_SDK_DISABLED", "true");
        assert!(
            settings(&[endpoint, disabled, variable]).is_ok(),
            "{variable:?}"
        );
        assert!(settings(&[endpoint, variable]).is_err(), "{variable:?}");
    }
}

#[test]
fn every_mistake_says_what_to_do_and_shows_no_secret() {
    for (name, value, words) in [
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "collector:4317",
            "use http:// or https://",
        ),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "http://me:word@host",
            "OTEL_EXPORTER_OTLP_HEADERS",
        ),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", "port 4317"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "10000"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "topsecret", "key=value"),
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "authorization: Basic topsecret==",
            "none of a header",
        ),
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "a=topsecret%0a",
            "cannot stand in a header",
        ),
        ("OTEL_TRACES_SAMPLER", "maybe", "always_on"),
        ("OTEL_TRACES_SAMPLER_ARG", "2", "from 0 to 1"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "from 1 to"),
        (
            "OTEL_EXPORTER_OTLP_CLIENT_KEY",
            "key.pem",
            "needs otel-exporter-otlp-client-certificate",
        ),
    ] {
        let endpoint = (
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
            "http://collector:4317",
        );
        let told = settings(&[endpoint, (name, value)]).unwrap_err();
        assert!(told.contains(words) && told.contains(name), "{told}");
        assert!(!told.contains("topsecret"), "{told}");
    }
}
