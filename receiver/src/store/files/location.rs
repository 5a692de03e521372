//! Where an image lies, relative to the folder of its store.

use std::path::{Component, Path};

use shared::clock::UnixNanos;
use shared::image::ImageId;

use crate::store::{Area, Placement, StoreError};

impl Area {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Images, Self::Quarantine];

    /// Name of its folder.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Images => "images",
            Self::Quarantine => "quarantine",
        }
    }
}

/// Where an image lies: an area, a day and a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    area: Area,
    day: String,
    name: String,
}

impl Location {
    /// That of a new image.
    pub fn new(placement: &Placement) -> Self {
        let Placement {
            id,
            area,
            extension,
            received,
        } = placement;
        Self {
            area: *area,
            day: day(*received).to_string(),
            name: format!("{id}.{extension}"),
        }
    }

    /// Gives it a name that no other location of the image has.
    pub(super) fn number(&mut self, number: u64) {
        if let Some((id, extension)) = self.name.split_once('.') {
            self.name = format!("{id}.{number}-{extension}");
        }
    }

    /// Reads what [`Self::text`] gave: locations come from the catalogue, and a damaged one must
    /// not reach outside.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(text: &str) -> Result<Self, StoreError> {
        let refused = || StoreError::Location {
            location: text.chars().take(128).collect(),
        };
        let mut parts = Vec::with_capacity(3);
        for component in Path::new(text).components() {
            match component.as_os_str().to_str() {
                Some(part) if matches!(component, Component::Normal(_)) && parts.len() < 3 => {
                    parts.push(part);
                }
                _ => return Err(refused()),
            }
        }
        let &[area, day, name] = parts.as_slice() else {
            return Err(refused());
        };
        let area = Area::ALL.into_iter().find(|known| known.folder() == area);
        match area {
            Some(area) if !text.contains('\0') => Ok(Self {
                area,
                day: day.to_owned(),
                name: name.to_owned(),
            }),
            _ => Err(refused()),
        }
    }

    /// As the catalogue keeps it: `images/2026-01-02/ID.jpg`.
    pub fn text(&self) -> String {
        format!("{}/{}/{}", self.area.folder(), self.day, self.name)
    }

    /// Its folder: `images/2026-01-02`.
    pub fn folder(&self) -> String {
        format!("{}/{}", self.area.folder(), self.day)
    }
}

/// Whether this is the text of [`Location::folder`].
pub(super) fn is_folder(text: &str) -> bool {
    let Some((area, day)) = text.split_once('/') else {
        return false;
    };
    let is_day = day.parse::<jiff::civil::Date>();
    Area::ALL.iter().any(|known| known.folder() == area)
        && is_day.is_ok_and(|read| read.to_string() == day)
}

/// The image whose file has this name, if it is the name of one.
pub(super) fn image_of(name: &str) -> Option<ImageId> {
    let (id, extension) = name.split_once('.')?;
    let plain = extension
        .chars()
        .all(|letter| letter.is_ascii_alphanumeric() || letter == '-');
    (plain && !extension.is_empty()).then_some(())?;
    id.parse().ok()
}

/// The UTC day, for example `2026-01-02`.
fn day(time: UnixNanos) -> jiff::civil::Date {
    jiff::Timestamp::from_nanosecond(i128::from(time.0))
        .expect("64-bit nanoseconds lie between the years 1677 and 2262")
        .to_zoned(jiff::tz::TimeZone::UTC)
        .date()
}
