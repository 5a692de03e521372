use super::*;

const SCHEMA_TEXT: &str = include_str!("../../../../docs/specs/report.schema.json");

fn schema() -> serde_json::Value {
    serde_json::from_str(SCHEMA_TEXT).expect("the schema is JSON")
}

fn check(report: &Report) {
    let value = serde_json::to_value(report).expect("serialises");
    let validator = jsonschema::draft202012::new(&schema()).expect("the schema is one");
    let errors: Vec<String> = validator
        .iter_errors(&value)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

/// Reports of all sorts.
fn reports() -> Vec<Report> {
    let odd = [
        unlike(
            row(1, 1),
            Outcome::Quarantined,
            Some("truncated-image: ends in \"IDAT\""),
        ),
        unlike(row(2, 1), Outcome::Lost, None),
        unlike(row(3, 1), Outcome::Owed, None),
        ImageRow {
            name: None,
            captured: None,
            queued: None,
            send_started: None,
            transmission_error_ns: None,
            delivery_ns: None,
            ..unlike(row(0, 1), Outcome::Duplicate, None)
        },
    ];
    let mut bare = account(0);
    bare.ended = None;
    bare.clock = None;
    bare.cpu_seconds = f64::NAN;
    let mut lossy = ten();
    lossy.ledger = Some(Ledger {
        named: 1,
        reasons: vec![LossReason {
            reason: "evicted".to_owned(),
            images: 1,
        }],
        missing: 2,
        reused: 3,
    });
    vec![
        lossy,
        ten(),
        build(&odd, None),
        build(&[], None),
        build(&odd, Some(&bare)),
    ]
}

#[test]
fn reports_keep_to_the_published_schema() {
    for report in reports() {
        check(&report);
    }
}

#[test]
fn reports_come_back_from_json() {
    for report in reports() {
        let text = serde_json::to_string(&report).expect("serialises");
        assert_eq!(
            serde_json::from_str::<Report>(&text).expect("parses"),
            report
        );
    }
}

#[test]
fn the_schema_refuses_what_it_does_not_name() {
    let validator = jsonschema::draft202012::new(&schema()).expect("the schema is one");
    let whole = serde_json::to_value(ten()).expect("serialises");
    assert!(validator.is_valid(&whole));
    for place in [
        "",
        "/totals",
        "/transmission",
        "/sizes",
        "/wire",
        "/clock",
        "/usage",
        "/images/0",
    ] {
        let mut more = whole.clone();
        let object = more
            .pointer_mut(place)
            .and_then(|value| value.as_object_mut());
        let object = object.unwrap_or_else(|| panic!("{place} is an object"));
        object.insert("surprise".to_owned(), 1.into());
        assert!(!validator.is_valid(&more), "{place} takes anything");
        let names: Vec<String> = whole
            .pointer(place)
            .and_then(|v| v.as_object())
            .expect("object")
            .keys()
            .cloned()
            .collect();
        for name in names {
            let mut less = whole.clone();
            less.pointer_mut(place)
                .and_then(|v| v.as_object_mut())
                .expect("object")
                .remove(&name);
            assert!(!validator.is_valid(&less), "{place} does without {name}");
        }
    }
}

#[test]
fn every_field_of_the_schema_is_described() {
    fn walk(value: &serde_json::Value, path: &str) {
        let Some(object) = value.as_object() else {
            return;
        };
        if let Some(properties) = object.get("properties").and_then(|value| value.as_object()) {
            for (name, property) in properties {
                assert!(
                    property.get("description").is_some(),
                    "{path}/{name} has no description"
                );
            }
        }
        for (name, child) in object {
            walk(child, &format!("{path}/{name}"));
        }
    }
    walk(&schema(), "");
}
