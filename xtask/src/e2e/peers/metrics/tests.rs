use super::*;

const GOOD: &str = "\
# HELP images_total Images.
# TYPE images_total counter
images_total{transport=\"grpc\",name=\"a\\\"b\\\\c\\nd,}\"} 2
images_total{transport=\"rest\"} 0

# HELP seconds Times.
# TYPE seconds histogram
seconds_bucket{le=\"0.1\"} 1
seconds_bucket{le=\"+Inf\"} 3
seconds_sum 1.5e-3
seconds_count 3
# HELP open Open.
# TYPE open gauge
open -1
";

#[test]
fn good_figures_are_read() {
    let samples = parse(GOOD).unwrap();
    assert_eq!(samples.len(), 7);
    assert_eq!(samples[0].labels["name"], "a\"b\\c\nd,}");
    assert_eq!(samples[0].value, 2.0);
    assert_eq!(samples[4].value, 0.0015);
}

#[test]
fn what_prometheus_refuses_is_found() {
    for (good, bad, problem) in [
        ("# TYPE open gauge\n", "", "open has no type"),
        ("# HELP open Open.\n", "", "open has no help"),
        (
            "images_total{transport=\"rest\"} 0",
            "images_total{transport=\"rest\"}0",
            "no space",
        ),
        ("transport=\"rest\"", "transport=rest", "without a value"),
        ("open -1", "open minus", "is no number"),
        ("open -1", "0pen -1", "is no name"),
        ("open -1", "open -1\nopen 2", "comes twice"),
        ("le=\"+Inf\"} 3", "le=\"+Inf\"} 4", "is not the count"),
        ("le=\"0.1\"} 1", "le=\"0.1\"} 7", "do not grow"),
        ("seconds_sum 1.5e-3\n", "", "no sum"),
        (
            "# TYPE open gauge",
            "# TYPE open counter",
            "end with _total",
        ),
        ("open -1\n", "open -1", "has no end"),
        ("\\nd", "\\d", "unknown escape"),
    ] {
        assert!(GOOD.contains(good), "{good}");
        let error = format!("{:#}", parse(&GOOD.replace(good, bad)).unwrap_err());
        assert!(error.contains(problem), "{error} does not tell {problem}");
    }
}
