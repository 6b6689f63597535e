------------------------------- MODULE Keyfold -------------------------------
(* Replicas share one store, and each caches one cluster's KEKs. The model     *)
(* shows how Revoke, refusals, freshness, staleness, failover, pruning,        *)
(* Restore, Rotate and AddRegions fit together. README.md gives the invariants *)
(* in words, and maps these names to the code.                                 *)
EXTENDS Naturals, Sequences, FiniteSets, TLC

CONSTANTS
    Replicas, None,
    MaxTime, MaxLog,        \* bounds: ticks, and numbered changes
    TTL, Grace, Stale,      \* cache_ttl, outage_grace, store_max_staleness, in ticks
    Events,                 \* the kinds of events that may happen in this run
    \* The safeguards, by rule. FALSE takes one away.
    F1_began,               \* a proof's time is when its unwrap began
    F1_bound,               \* grace ends, counted from the last proof
    F2,                     \* a refusal that another replica met drops the KEK here
    R1,                     \* a mutation checks for revocations when it commits
    R2,                     \* a load that an invalidation overtook is thrown away
    R3,                     \* no step comes between the check and the reply
    R4,                     \* a replica records a change as applied after the KEKs are gone
    R10,                    \* a revoked cluster gets a region only if the request says so
    S1,                     \* a poll compares the last change's number and id
    S1_own,                 \* ... and also knows a change of its own by its id
    S2,                     \* a poll is a write on the primary
    S3_began,               \* staleness counts from when the last good poll began
    S3_every,               \* every use checks staleness
    S4_start,               \* a replica that registers starts from what it reads then
    S4_name,                \* no two replicas share a name
    S5,                     \* a rotation checks that nobody has changed the row it read
    S10_load,               \* a load holds the row against the cluster's newest change
    S10_commit,             \* ... and so does a mutation when it commits
    S10_kept,               \* (not built) pruning keeps the cluster's newest change
    S11_live,               \* pruning removes nothing that a live replica has yet to apply
    S11_checkpoint,         \* pruning leaves the number and id of the last change it removed
    S11_anew                \* a replica that pruning passed drops everything, then registers

VARIABLES
    now,        \* one clock: only spans on one machine are ever compared
    log,        \* the store: numbered changes, each with the row that it left
    pruned,     \* the store has removed the changes up to this number
    history,    \* number of losses; with a change's number it is the random id
    beats,      \* the store: heartbeats, by replica name
    pinned,     \* the frozen store that a replica is connected to; None: the primary
    mutations,  \* Restores and Rotates that have proven their keys but not committed
    on,         \* root key versions that the customer's KMS accepts
    newest,     \* the root key version that wraps
    mem         \* each replica's memory

store == <<log, pruned, history, beats, pinned, mutations>>
world == <<on, newest>>
vars == <<now, store, world, mem>>

Max(S) == CHOOSE x \in S : \A y \in S : y <= x

--------------------------------- (* Store *) --------------------------------

(* A row says whether the cluster is enabled, and which root key version wraps *)
(* each of two KEKs; 0 means that the KEK does not exist yet. `added` is the   *)
(* state of a second region, which AddRegions may add.                         *)
Row(db) == IF db = <<>> THEN [enabled |-> TRUE, wraps |-> <<1, 0>>, added |-> "absent"]
                        ELSE db[Len(db)].row

Id(db, n) == IF n \in 1..Len(db) THEN <<n, db[n].id>> ELSE <<0, 0>>
Newest(db) == Id(db, Len(db))
Has(db, id) == Id(db, id[1]) = id

ClusterChanges(db) == {n \in 1..Len(db) : db[n].kind # "refused"}
Version(db) == Id(db, Max({0} \cup {n \in ClusterChanges(db) : db[n].written}))

(* The cluster's newest change carries the version that it gave the row, the   *)
(* floor. A row below the floor is not the one that somebody decided on.       *)
Floor(db, cut) == Max({0} \cup {n \in ClusterChanges(db) : S10_kept \/ n > cut})
Authentic(db, cut) == Version(db)[1] >= Floor(db, cut)

(* `row` is what the store holds after the change, which is the former row if  *)
(* the store has swallowed the write (~written). Only the invariants use       *)
(* `base`, `at` and `said`.                                                    *)
Change(kind, by, row) ==
    [kind |-> kind, by |-> by, row |-> row, written |-> TRUE, id |-> history, root |-> 0,
     base |-> 0, at |-> now, said |-> FALSE]

Db(r) == IF pinned[r] = None THEN log ELSE pinned[r]
Cut(r) == IF pinned[r] = None THEN pruned ELSE 0
Name(r) == IF S4_name THEN r ELSE CHOOSE x \in Replicas : TRUE

(* The committer is another replica (None) or, where it matters, one of these. *)
By == {None} \cup (IF "own" \in Events THEN {r \in Replicas : pinned[r] = None /\ ~mem[r].lost}
                                       ELSE {})

-------------------------------- (* Memory *) --------------------------------

Empty == [applied |-> <<0, 0>>, own |-> <<0, 0>>, seen |-> 0, lost |-> FALSE, anew |-> FALSE,
          view |-> None, kek |-> None, load |-> None, poll |-> None, tell |-> 0, held |-> None]

(* drop_cluster drops the view, its KEK and a load in flight.                  *)
Dropped(m) == [m EXCEPT !.view = None, !.kek = None, !.load = IF R2 THEN None ELSE @]

(* drop_root drops the KEK and a load in flight that are under that version.   *)
DroppedRoot(m, root) ==
    [m EXCEPT !.kek = IF @ # None /\ @.root = root THEN None ELSE @,
              !.load = IF R2 /\ @ # None /\ @.view.root = root THEN None ELSE @]

(* Keyring._kek decides whether a call may use the KEK at this moment.         *)
Check(r) ==
    LET m == mem[r] IN
    /\ ~m.lost /\ ~m.anew
    /\ S3_every => now - m.seen <= Stale
    /\ m.kek # None
    /\ \/ now < m.kek.proof + TTL
       \/ m.kek.unknown /\ (F1_bound => now < m.kek.proof + TTL + Grace)

(* The KEKs that calls may use now. Without R3 a reply may wait once checked.  *)
InUse(r) == (IF Check(r) THEN {mem[r].kek} ELSE {})
            \cup (IF mem[r].held # None THEN {mem[r].held} ELSE {})

Wait(r) ==
    /\ ~R3 /\ Check(r) /\ mem[r].held = None
    /\ mem' = [mem EXCEPT ![r].held = mem[r].kek]
    /\ UNCHANGED <<now, store, world>>

--------------------------------- (* Loads *) --------------------------------

(* A load reads the row if no view is in memory. The KMS decides as the load   *)
(* begins, which is the worst order, because the replica learns it only as the *)
(* load ends. `under` is the number of the last change applied here by then.   *)
LoadBegins(r) ==
    LET m == mem[r]
        row == Row(Db(r))
        view == IF m.view # None THEN m.view
                ELSE [root |-> row.wraps[1], version |-> Version(Db(r))]
    IN
    /\ m.load = None /\ ~m.lost /\ ~m.anew
    /\ m.view # None \/ (row.enabled /\ (S10_load => Authentic(Db(r), Cut(r))))
    /\ m.kek # None => m.kek.began < now
    /\ mem' = [mem EXCEPT ![r].load =
                  [view |-> view, began |-> now, under |-> m.applied[1], yes |-> view.root \in on]]
    /\ UNCHANGED <<now, store, world>>

LoadEnds(r) ==
    LET load == mem[r].load
        ended == [mem[r] EXCEPT !.load = None, !.view = load.view]
    IN
    /\ load # None
    /\ mem' = [mem EXCEPT ![r] =
          IF load.yes
          THEN [ended EXCEPT !.kek =
                  [root |-> load.view.root, began |-> load.began, under |-> load.under,
                   proof |-> IF F1_began THEN load.began ELSE now, unknown |-> FALSE]]
          ELSE IF Version(Db(r)) # load.view.version
          THEN Dropped(ended)      \* F3: the row changed, so this is not a refusal
          ELSE [DroppedRoot(ended, load.view.root) EXCEPT !.tell = load.view.root]]
    /\ UNCHANGED <<now, store, world>>

(* A load could not reach the KMS. From then on the KEK serves on grace.       *)
CannotTell(r) ==
    /\ "outage" \in Events /\ mem[r].kek # None /\ ~mem[r].kek.unknown
    /\ now >= mem[r].kek.proof + TTL
    /\ mem' = [mem EXCEPT ![r].kek.unknown = TRUE]
    /\ UNCHANGED <<now, store, world>>

(* A refusal becomes a numbered change.                                        *)
Tell(r) ==
    /\ mem[r].tell # 0 /\ pinned[r] = None /\ Len(log) < MaxLog
    /\ log' = Append(log, [Change("refused", r, Row(log)) EXCEPT !.root = mem[r].tell])
    /\ mem' = [mem EXCEPT ![r].tell = 0]
    /\ UNCHANGED <<now, pruned, history, beats, pinned, mutations, world>>

-------------------------------- (* Changes *) -------------------------------

(* One transaction writes the heartbeat and reads. Its answer may take long.   *)
(* With the checkpoint, the store has `applied` if it is the last change that  *)
(* pruning removed; and if pruning went further, it has passed the replica.    *)
PollBegins(r) ==
    LET m == mem[r]
        db == Db(r)
        passed == S11_checkpoint /\ m.applied[1] < Cut(r)
        known == /\ Has(db, m.applied) /\ m.applied[1] >= Cut(r)
                 /\ S11_checkpoint \/ Cut(r) = 0 \/ m.applied[1] > Cut(r)
    IN
    /\ m.poll = None /\ ~m.lost /\ ~m.anew
    /\ m.seen < now \/ ~known \/ Len(db) > m.applied[1] \/ beats[Name(r)].applied # m.applied[1]
    /\ S2 => pinned[r] = None
    /\ mem' = [mem EXCEPT ![r].poll =
          [began |-> now, lost |-> S1 /\ ~known /\ ~passed, passed |-> passed,
           changes |-> [n \in m.applied[1] + 1..Len(db) |-> db[n]], last |-> Len(db)]]
    /\ beats' = IF pinned[r] = None /\ ~passed /\ (S1 => known)
                THEN [beats EXCEPT ![Name(r)] =
                        [applied |-> IF R4 THEN m.applied[1] ELSE Len(log), at |-> now]]
                ELSE beats
    /\ UNCHANGED <<now, log, pruned, history, pinned, mutations, world>>

RECURSIVE Applied(_, _, _)
Applied(r, m, poll) ==
    LET n == m.applied[1] + 1 IN
    IF n > poll.last THEN m
    ELSE LET change == poll.changes[n]
             mine == IF S1_own THEN m.own = <<n, change.id>> ELSE m.own[1] = n
             next == IF change.kind # "refused"
                     THEN IF mine THEN m ELSE Dropped(m)
                     ELSE IF F2 /\ change.by # r THEN DroppedRoot(m, change.root) ELSE m
         IN Applied(r, [next EXCEPT !.applied = <<n, change.id>>,
                                    !.own = IF n < @[1] THEN @ ELSE <<0, 0>>], poll)

PollEnds(r) ==
    LET m == mem[r] IN
    /\ m.poll # None
    /\ mem' = [mem EXCEPT ![r] =
          IF m.poll.lost THEN [Dropped(m) EXCEPT !.lost = TRUE, !.poll = None]
          ELSE IF m.poll.passed
          THEN [(IF S11_anew THEN Dropped(m) ELSE m) EXCEPT !.anew = TRUE, !.poll = None]
          ELSE [Applied(r, m, m.poll) EXCEPT
                  !.poll = None, !.seen = IF S3_began THEN m.poll.began ELSE now]]
    /\ UNCHANGED <<now, store, world>>

(* A replica that pruning passed registers, and goes on from what it reads.    *)
BeginsAnew(r) ==
    /\ mem[r].anew /\ pinned[r] = None
    /\ mem' = [mem EXCEPT ![r].anew = FALSE, ![r].applied = Newest(log), ![r].own = <<0, 0>>,
                          ![r].seen = now]
    /\ beats' = [beats EXCEPT ![Name(r)] = [applied |-> Len(log), at |-> now]]
    /\ UNCHANGED <<now, log, pruned, history, pinned, mutations, world>>

(* Pruning removes the oldest changes but not the newest. It may come at any   *)
(* moment, as if the time for which changes are kept had passed.               *)
Prune ==
    /\ "prune" \in Events
    /\ \E last \in pruned + 1..Len(log) - 1 :
          /\ S11_live => \A r \in Replicas :
                now <= beats[Name(r)].at + Stale => last < beats[Name(r)].applied
          /\ pruned' = last
    /\ UNCHANGED <<now, log, history, beats, pinned, mutations, world, mem>>

(* A process dies, and another one registers and starts from what it reads.    *)
Restart(r) ==
    /\ "restart" \in Events /\ pinned[r] = None
    /\ LET kept == IF S4_start THEN Empty ELSE [mem[r] EXCEPT !.poll = None] IN
       mem' = [mem EXCEPT ![r] = [kept EXCEPT !.applied = Newest(log), !.seen = now]]
    /\ beats' = [beats EXCEPT ![Name(r)] = [applied |-> Len(log), at |-> now]]
    /\ UNCHANGED <<now, log, pruned, history, pinned, mutations, world>>

------------------------------- (* Mutations *) ------------------------------

(* Revoke is for all regions. The store may number the change and swallow the  *)
(* row's update, as a trigger in it could.                                     *)
Revoke ==
    /\ "revoke" \in Events /\ Len(log) < MaxLog
    /\ LET row == [Row(log) EXCEPT !.enabled = FALSE,
                                   !.added = IF @ = "serves" THEN "revoked" ELSE @]
       IN \E by \in By : \E written \in {TRUE} \cup (IF "swallow" \in Events THEN {FALSE} ELSE {}) :
            log' = Append(log, [Change("revoke", by, IF written THEN row ELSE Row(log))
                                   EXCEPT !.written = written])
    /\ UNCHANGED <<now, pruned, history, beats, pinned, mutations, world, mem>>

(* A replica applies its own change after the commit, ahead of the poll. A     *)
(* Revoke answers after that.                                                  *)
AppliesHere(r) ==
    \E n \in ClusterChanges(log) :
        /\ log[n].by = r /\ n > mem[r].applied[1] /\ n > mem[r].own[1]
        /\ mem' = [mem EXCEPT ![r] = [Dropped(@) EXCEPT !.own = Id(log, n)]]
        /\ UNCHANGED <<now, store, world>>

(* Restore, Rotate and AddRegions read the row, prove their keys, and then     *)
(* commit.                                                                     *)
Proves(kind, row, said) ==
    /\ kind \in Events /\ Cardinality(mutations) < 2 /\ Len(log) < MaxLog
    /\ \A k \in {1, 2} : Row(log).wraps[k] \in on \cup {0}
    /\ mutations' = mutations \cup
          {[kind |-> kind, version |-> Version(log), base |-> Newest(log), row |-> row, said |-> said]}
    /\ UNCHANGED <<now, log, pruned, history, beats, pinned, world, mem>>

RestoreBegins ==
    ~Row(log).enabled /\ Proves("restore",
        [Row(log) EXCEPT !.enabled = TRUE, !.added = IF @ = "revoked" THEN "serves" ELSE @], FALSE)

RotateBegins ==
    \E second \in {Row(log).wraps[2], newest} :      \* newest: with new_generation
        /\ Row(log).enabled /\ newest \in on
        /\ Proves("rotate", [Row(log) EXCEPT !.wraps =
                                <<newest, IF second = 0 THEN 0 ELSE newest>>], FALSE)

(* `said`: the request says that it means a cluster of which every region is   *)
(* revoked.                                                                    *)
AddBegins ==
    \E said \in BOOLEAN :
        /\ Row(log).added = "absent"
        /\ R10 => Row(log).enabled \/ said
        /\ Proves("add", [Row(log) EXCEPT !.added = "serves"], said)

Overtaken(m) ==
    \/ ~Has(log, m.version)
    \/ S10_commit /\ ~Authentic(log, pruned)
    \/ \E n \in m.version[1] + 1..Len(log) :
          /\ log[n].written
          /\ \/ R1 /\ log[n].kind = "revoke"
             \/ S5 /\ log[n].kind \in {"restore", "rotate", "add"}

MutationEnds ==
    \E m \in mutations :
        /\ mutations' = mutations \ {m}
        /\ IF Overtaken(m) THEN UNCHANGED log ELSE
           /\ Len(log) < MaxLog
           /\ \E by \in By :
                log' = Append(log, [Change(m.kind, by, m.row) EXCEPT
                                       !.base = IF Has(log, m.base) THEN m.base[1] ELSE 0,
                                       !.said = m.said])
        /\ UNCHANGED <<now, pruned, history, beats, pinned, world, mem>>

------------------------- (* The world around it *) --------------------------

Tick == now < MaxTime /\ now' = now + 1 /\ UNCHANGED <<store, world, mem>>

Customer ==
    /\ "refusal" \in Events
    /\ \E k \in 1..newest : on' = IF k \in on THEN on \ {k} ELSE on \cup {k}
    /\ UNCHANGED <<now, store, newest, mem>>

NewKeyVersion ==
    /\ "rotate" \in Events /\ newest = 1
    /\ newest' = 2 /\ on' = on \cup {2}
    /\ UNCHANGED <<now, store, mem>>

(* All connections of a replica lead to a standby that is frozen from now on,  *)
(* or to a deposed primary; and later back to the primary.                     *)
Pin(r) ==
    /\ "pin" \in Events
    /\ pinned' = [pinned EXCEPT ![r] = IF @ = None THEN log ELSE None]
    /\ UNCHANGED <<now, log, pruned, history, beats, mutations, world, mem>>

(* A standby that lags takes over, and the last change is lost.                *)
Failover ==
    /\ "failover" \in Events /\ history = 0 /\ log # <<>>
    /\ LET left == Len(log) - 1 IN
       /\ log' = SubSeq(log, 1, left)
       /\ beats' = [r \in Replicas |->
                       [beats[r] EXCEPT !.applied = IF @ > left THEN left ELSE @]]
    /\ history' = history + 1
    /\ UNCHANGED <<now, pruned, pinned, mutations, world, mem>>

Init ==
    /\ now = 0 /\ log = <<>> /\ pruned = 0 /\ history = 0 /\ mutations = {} /\ on = {1} /\ newest = 1
    /\ beats = [r \in Replicas |-> [applied |-> 0, at |-> 0]]
    /\ pinned = [r \in Replicas |-> None]
    /\ mem = [r \in Replicas |-> Empty]

Next ==
    \/ Tick \/ Customer \/ NewKeyVersion \/ Failover \/ Prune
    \/ Revoke \/ RestoreBegins \/ RotateBegins \/ AddBegins \/ MutationEnds
    \/ \E r \in Replicas :
        \/ LoadBegins(r) \/ LoadEnds(r) \/ CannotTell(r) \/ Tell(r) \/ Wait(r)
        \/ PollBegins(r) \/ PollEnds(r) \/ BeginsAnew(r) \/ AppliesHere(r)
        \/ Restart(r) \/ Pin(r)

Spec == Init /\ [][Next]_vars
Symmetry == Permutations(Replicas)

------------------------------ (* Invariants *) ------------------------------

LastRevoke == LET all == {n \in 1..Len(log) : log[n].kind = "revoke"}
              IN IF all = {} THEN 0 ELSE Max(all)

(* The operator's intention, whatever the row says: the cluster is revoked     *)
(* until a Restore that began after the last Revoke.                           *)
Revoked == /\ LastRevoke > 0
           /\ ~\E n \in LastRevoke + 1..Len(log) :
                  log[n].kind = "restore" /\ log[n].base >= LastRevoke

Confirmed(r) == \/ beats[Name(r)].applied >= LastRevoke
                \/ mem[r].own = Id(log, LastRevoke)

ConfirmedHasStopped ==
    Revoked => \A r \in Replicas : Confirmed(r) => InUse(r) = {}

(* A region that AddRegions brings into a revoked cluster serves only if a     *)
(* request that began after the last Revoke said so.                           *)
NoRegionAddedUnawares ==
    (Revoked /\ Row(log).added = "serves") =>
        \E n \in LastRevoke + 1..Len(log) : log[n].said /\ log[n].base >= LastRevoke

AllStopByTheBound ==
    (Revoked /\ now > log[LastRevoke].at + Stale) => \A r \in Replicas : InUse(r) = {}

SilentHasStopped ==
    \A r \in Replicas : now > beats[Name(r)].at + Stale => InUse(r) = {}

NoUsePastARefusal ==
    \A r \in Replicas : \A kek \in InUse(r) : \A n \in 1..Len(log) :
        (/\ log[n].kind = "refused" /\ log[n].root = kek.root /\ log[n].by # r
         /\ \/ Has(log, mem[r].applied) /\ n <= mem[r].applied[1]
            \/ now > log[n].at + Stale)
        => kek.under >= n

(* A replica takes the store for another one only if a failover really lost    *)
(* what the replica had applied.                                               *)
PruningIsNoRollback ==
    \A r \in Replicas : mem[r].lost => ~Has(log, mem[r].applied)

(* A replica whose changes were pruned had been silent.                        *)
PruningPassesNoLiveReplica ==
    \A r \in Replicas : (mem[r].poll # None /\ mem[r].poll.passed) =>
        mem[r].poll.began > beats[Name(r)].at + Stale

ProvenInTime ==
    \A r \in Replicas : \A kek \in InUse(r) :
        now < kek.began + TTL + (IF kek.unknown THEN Grace ELSE 0)

NothingUnopenable ==
    \A n \in 1..Len(log) : \A k \in {1, 2} :
        log[n].row.wraps[k] # 0 => Row(log).wraps[k] # 0

OldKeyNotNeeded ==
    \A n \in 1..Len(log) : log[n].kind = "rotate" =>
        \A k \in {1, 2} : Row(log).wraps[k] = 0 \/ Row(log).wraps[k] >= log[n].row.wraps[1]
=============================================================================
