//! The names of the keys, all under `queue.prefix`.

/// The consumer group of the inbox: the seed system's.
pub(super) const GROUP: &str = "processors";

/// Fields of the status hash that this store keeps beside those that all have; not shown.
pub(super) const OWN_FIELDS: &[&str] = &["place", "more", "told", "unique", "admitted"];

/// Makes key names.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub fn new(prefix: &str) -> Self {
        Keys { prefix: prefix.to_owned() }
    }

    fn own(&self, name: &str) -> String {
        format!("{}job-queue:{name}", self.prefix)
    }

    /// The inbox, where producers write.
    pub fn stream(&self) -> String {
        format!("{}job-queue", self.prefix)
    }

    /// A stream with one entry whenever somebody ought to look.
    pub fn wake(&self) -> String {
        self.own("wake")
    }

    /// Running jobs by the end of their leases.
    pub fn leases(&self) -> String {
        self.own("leases")
    }

    /// The jobs of one state by their admission.
    pub fn state(&self, word: &str) -> String {
        self.own(&format!("state:{word}"))
    }

    /// Who is paused.
    pub fn paused(&self) -> String {
        self.own("paused")
    }

    /// The key that every script is given: it makes all other names from this one.
    pub fn global(&self) -> Vec<String> {
        vec![self.stream()]
    }

    /// A budget's entry in the ledger.
    pub fn ledger(&self, budget: &str) -> String {
        self.own(&format!("ledger:of:{budget}"))
    }

    /// The budgets that the ledger has, by when they were noted.
    pub fn ledger_index(&self) -> String {
        self.own("ledger:index")
    }

    /// Where the fleet speaks.
    pub fn ledger_channel(&self) -> String {
        self.own("ledger:words")
    }

    /// A channel on which nothing is said: who listens to it is there.
    pub fn ledger_presence(&self, member: &str) -> String {
        self.own(&format!("ledger:at:{member}"))
    }

    /// The status hash.
    pub fn status(&self, id: &str) -> String {
        format!("{}job:{id}", self.prefix)
    }

    /// The job itself. Not under `job:`, where ids of other jobs may look like it.
    pub fn data(&self, id: &str) -> String {
        self.own(&format!("data:{id}"))
    }

    /// The steps.
    pub fn journal(&self, id: &str) -> String {
        self.own(&format!("journal:{id}"))
    }

    /// The newest patch.
    pub fn patch(&self, id: &str) -> String {
        self.own(&format!("patch:{id}"))
    }
}
