//! Parameters of a request, read strictly: a misspelt one would otherwise widen the answer
//! silently.

use std::fmt::Display;
use std::str::FromStr;

use axum::extract::FromRequestParts;
use http::request::Parts;

use crate::catalog::Filter;
use crate::problem::Problem;

/// The parameters of a request's query.
pub(super) struct Query {
    pairs: Vec<(String, String)>,
}

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        let pairs = url::form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .collect();
        Ok(Self { pairs })
    }
}

impl Query {
    /// Checks that there are no parameters but these, each at most once.
    pub(super) fn only(self, known: &[&str]) -> Result<Self, Problem> {
        for (at, (name, _)) in self.pairs.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                let detail = match known {
                    [] => format!("unknown parameter {name:?}; there are none here"),
                    _ => format!("unknown parameter {name:?}; use {}", known.join(", ")),
                };
                return Err(Problem::parameter(name, detail));
            }
            if self.pairs[..at].iter().any(|(earlier, _)| earlier == name) {
                let detail = format!("parameter {name:?} is there twice; give it once");
                return Err(Problem::parameter(name, detail));
            }
        }
        Ok(self)
    }

    /// The value of a parameter as it is.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }

    /// The value of a parameter, read as what is expected.
    pub(super) fn read<T>(&self, name: &str) -> Result<Option<T>, Problem>
    where
        T: FromStr<Err: Display>,
    {
        self.text(name)
            .map(|text| {
                let problem =
                    |error| Problem::parameter(name, format!("parameter {name}={text}: {error}"));
                text.parse().map_err(problem)
            })
            .transpose()
    }

    /// The value of a parameter, which is one of these words.
    pub(super) fn word<T: Copy>(
        &self,
        name: &str,
        words: &[(&str, T)],
    ) -> Result<Option<T>, Problem> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        let found = words.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| Some(*value)).ok_or_else(|| {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            let detail = format!("parameter {name}={text}: use {}", known.join(" or "));
            Problem::parameter(name, detail)
        })
    }

    /// The filter by `run`, `transport` and `transmitter`.
    pub(super) fn filter(&self) -> Result<Filter, Problem> {
        Ok(Filter {
            run: self.text("run").map(str::to_owned),
            transport: self.read("transport")?,
            transmitter: self.text("transmitter").map(str::to_owned),
            quarantined: None,
        })
    }
}
