//! Port of the server: the objects of a simulated instance.

/// Objects of an instance.
pub trait Objects: Send + Sync + 'static {
    /// Returns the id of the instance.
    fn instance_id(&self) -> String;

    /// Returns one page of a list. Tables have the names that the catalog gives them.
    ///
    /// # Errors
    /// Fails if the cursor is the id of no object.
    fn list(&self, table: &'static str, query: &Query) -> Result<Listing, UnknownCursor>;

    /// Returns one object as JSON. `with_members_count` is whether an organization has `members_count`.
    fn get(&self, table: &'static str, id: &str, with_members_count: bool) -> Option<String>;
}

/// One page of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Objects as JSON, in the order of the query.
    pub objects: Vec<String>,
    /// Number of objects that pass the filter.
    pub total: u64,
}

/// The cursor of a query is the id of no object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownCursor;

/// Query for one page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Objects that the list is limited to.
    pub filter: Filter,
    /// Order of the list.
    pub order: Order,
    /// Number of objects to skip. Zero if there is a cursor.
    pub offset: u64,
    /// Cursor: the id of the last object of the page before.
    pub after: Option<String>,
    /// Maximum number of objects.
    pub limit: usize,
    /// Whether organizations have `members_count`.
    pub with_members_count: bool,
}

/// Objects that a list is limited to. An object must pass every part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Time of creation in milliseconds: earlier than this.
    pub created_before: Option<i64>,
    /// Time of creation in milliseconds: later than this.
    pub created_after: Option<i64>,
    /// Ids of the objects.
    pub ids: Ids,
    /// Ids of the user of a membership.
    pub users: Ids,
    /// Id of the organization that the object belongs to.
    pub organization: Option<String>,
    /// Users: ids of organizations, one of which the user must be a member of.
    pub members_of: Option<Vec<String>>,
    /// Statuses; every status if empty.
    pub statuses: Vec<String>,
    /// Subscription items: whether those of free plans are left out.
    pub is_paid: bool,
}

/// Ids that a list is limited to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    /// Ids to include; every id if empty.
    pub included: Vec<String>,
    /// Ids to exclude.
    pub excluded: Vec<String>,
}

impl Ids {
    /// Returns whether an object with this id passes.
    pub fn permits(&self, id: Option<&str>) -> bool {
        let has = |ids: &[String]| id.is_some_and(|id| ids.iter().any(|one| one == id));
        (self.included.is_empty() || has(&self.included)) && !has(&self.excluded)
    }
}

/// Order of a list. Objects that are equal in the key are in the order of their ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Key of the objects.
    pub key: String,
    /// Whether the greatest comes first.
    pub descending: bool,
}
