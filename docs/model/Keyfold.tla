------------------------------- MODULE Keyfold -------------------------------
(* Replicas share one store, and each caches one cluster's KEKs. The model     *)
(* shows how Revoke, refusals, freshness, staleness, failover, pruning, bans,  *)
(* Restore, Rotate and AddRegions fit together, and what a store that somebody *)
(* else writes can do. README.md gives the invariants in words, and maps these *)
(* names to the code.                                                          *)
EXTENDS Naturals, Sequences, FiniteSets, TLC

CONSTANTS
    Replicas, None,
    MaxTime, MaxLog,        \* bounds: ticks, and entries of the log
    TTL, Grace, Stale,      \* cache_ttl, outage_grace, store_max_staleness, in ticks
    Events,                 \* the kinds of events that may happen in this run
    \* The safeguards, by rule. FALSE takes one away.
    A6_revoke,              \* a cluster whose row is not authentic, or gone, can be revoked
    A6_obey,                \* a ban drops the cluster's keys, as a decision does
    A6_ban,                 \* a load obeys a ban before any row
    A6_restore,             \* no Restore ends a ban; only a seal does
    A6_seal,                \* a seal leaves every region revoked
    A6_kept,                \* pruning carries a ban forward as a ban
    A6_sweep,               \* a replica holds what is in memory against the store
    F1_began,               \* a proof's time is when its unwrap began
    F1_bound,               \* grace ends, counted from the last proof
    F2,                     \* a refusal that another replica met drops the KEK here
    R1,                     \* a mutation checks for revocations when it commits
    R2,                     \* a load that an invalidation overtook is thrown away
    R3,                     \* no step comes between the check and the reply
    R4,                     \* a replica records an entry as applied after the KEKs are gone
    R10,                    \* a revoked cluster gets a region only if the request says so
    S0,                     \* a replica's cursor passes no entry that it has not applied
    S1,                     \* a poll compares the last entry's number and id
    S1_own,                 \* ... and also knows a change of its own by its id
    S1_unseen,              \* a replica goes on only after a reconciliation that it did not know
    S1_sight,               \* ... and knows those that a change of its own follows
    S2,                     \* a poll is a write on the primary
    S3_began,               \* staleness counts from when the last good poll began
    S3_every,               \* every use checks staleness
    S3_whole,               \* only a poll that has read every entry makes a replica fresh
    S4_start,               \* a replica that registers starts from what it reads then
    S4_name,                \* no two replicas share a name
    S5,                     \* a rotation checks that nobody has changed the row it read
    S10_load,               \* a load holds the row against the cluster's newest floor
    S10_commit,             \* ... and so does a mutation when it commits
    S10_kept,               \* pruning carries the cluster's newest floor forward
    S10_lock,               \* ... and looks for later floors under the lock of the log's head
    S11_live,               \* pruning removes nothing that a live replica has yet to apply
    S11_checkpoint,         \* pruning leaves the number and id of the last entry it removed
    S11_anew                \* a replica that pruning passed drops everything, then registers

VARIABLES
    now,        \* one clock: only spans on one machine are ever compared
    log,        \* the store: numbered entries
    row,        \* the store: the cluster's row; None: it is gone
    pruned,     \* the store has removed the entries up to this number
    losses,     \* the entries that failovers have lost
    beats,      \* the store: heartbeats, by replica name
    pinned,     \* the frozen store that a replica is connected to; None: the primary
    mutations,  \* Restores and Rotates that have proven their keys but not committed
    on,         \* root key versions that the customer's KMS accepts
    newest,     \* the root key version that wraps
    mem,        \* each replica's memory
    \* Only the invariants use these.
    accepted,   \* the number of losses that the operator had accepted last
    looked      \* the replicas that have held their memory against a row that is not sound

store == <<log, row, pruned, losses, beats, pinned, mutations, accepted>>
world == <<on, newest>>
vars == <<now, store, world, mem, looked>>

Max(S) == CHOOSE x \in S : \A y \in S : y <= x

--------------------------------- (* Store *) --------------------------------

(* A row says whether the cluster is enabled, and which root key version wraps *)
(* each of two KEKs; 0 means that the KEK does not exist yet. `added` is the   *)
(* state of a second region, which AddRegions may add. `version` is the id of  *)
(* the decision that wrote the row, and its MAC; None: the MAC does not verify.*)
First == [version |-> <<0, 0>>, enabled |-> TRUE, wraps |-> <<1, 0>>, added |-> "absent"]

(* An entry's random id is its number with the number of losses before it: a   *)
(* number that is written again has another id.                                *)
Id(db, n) == IF n \in 1..Len(db) THEN <<n, db[n].id>> ELSE <<0, 0>>
NewId == <<Len(log) + 1, Len(losses)>>
Newest(db) == Id(db, Len(db))
Has(db, id) == Id(db, id[1]) = id

(* An entry that decides something carries the floor: the version that it gave *)
(* the row. The entry of the cluster's making has number 0. `left` is the row  *)
(* that the store then held. Only the invariants use `decided`, `base`, `at`   *)
(* and `said`; a failover also uses the `base` of pruning.                     *)
Entry(kind, by) ==
    [kind |-> kind, by |-> by, id |-> Len(losses), floor |-> None, banned |-> FALSE, root |-> 0,
     left |-> row, decided |-> None, base |-> 0, at |-> now, said |-> FALSE]

Decision(kind, by, decided) ==
    [Entry(kind, by) EXCEPT !.floor = NewId, !.left = decided, !.decided = decided]

Made == [floor |-> <<0, 0>>, banned |-> FALSE]
Floors(db, first, last) == {n \in first..last : db[n].floor # None}
FloorIn(db, cut, last) ==
    LET all == Floors(db, cut + 1, last)
    IN IF all # {} THEN [floor |-> db[Max(all)].floor, banned |-> db[Max(all)].banned]
       ELSE IF cut = 0 THEN Made ELSE None

Floor(db, cut) == FloorIn(db, cut, Len(db))
Verifies(held) == held # None /\ held.version # None
Authentic(db, cut, held) ==
    Verifies(held) /\ Floor(db, cut) # None /\ Floor(db, cut).floor = held.version
Banned(db, cut) == Floor(db, cut) # None /\ Floor(db, cut).banned

Db(r) == IF pinned[r] = None THEN [log |-> log, row |-> row, cut |-> pruned] ELSE pinned[r]
Name(r) == IF S4_name THEN r ELSE CHOOSE x \in Replicas : TRUE

(* The committer is another replica (None) or, where it matters, one of these. *)
(* A transaction begins only where the store has what its replica has seen.    *)
By == {None} \cup (IF "own" \in Events
                   THEN {r \in Replicas : /\ pinned[r] = None /\ ~mem[r].lost
                                          /\ Has(log, mem[r].applied) /\ Has(log, mem[r].own)}
                   ELSE {})

-------------------------------- (* Memory *) --------------------------------

Empty == [applied |-> <<0, 0>>, own |-> <<0, 0>>, seen |-> 0, lost |-> FALSE, anew |-> FALSE,
          known |-> {}, unasked |-> FALSE,
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
(* load ends. `under` is the number of the last entry applied here by then.    *)
LoadBegins(r) ==
    LET m == mem[r]
        db == Db(r)
        view == IF m.view # None THEN m.view
                ELSE [root |-> db.row.wraps[1], version |-> db.row.version]
    IN
    /\ m.load = None /\ ~m.lost /\ ~m.anew
    /\ m.view = None => /\ Verifies(db.row) /\ db.row.enabled
                        /\ S10_load => Authentic(db.log, db.cut, db.row)
                        /\ A6_ban => ~Banned(db.log, db.cut)
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
          ELSE IF ~Verifies(Db(r).row) \/ Db(r).row.version # load.view.version
          THEN Dropped(ended)      \* F3: the row changed, so this is not a refusal
          ELSE [DroppedRoot(ended, load.view.root) EXCEPT !.tell = load.view.root]]
    /\ UNCHANGED <<now, store, world>>

(* A load could not reach the KMS. From then on the KEK serves on grace.       *)
CannotTell(r) ==
    /\ "outage" \in Events /\ mem[r].kek # None /\ ~mem[r].kek.unknown
    /\ now >= mem[r].kek.proof + TTL
    /\ mem' = [mem EXCEPT ![r].kek.unknown = TRUE]
    /\ UNCHANGED <<now, store, world>>

(* A refusal becomes an entry of the log.                                      *)
Tell(r) ==
    /\ mem[r].tell # 0 /\ pinned[r] = None /\ Len(log) < MaxLog
    /\ log' = Append(log, [Entry("refused", r) EXCEPT !.root = mem[r].tell])
    /\ mem' = [mem EXCEPT ![r].tell = 0]
    /\ UNCHANGED <<now, row, pruned, losses, beats, pinned, mutations, accepted, world>>

(* A replica reads whether the row that it has in memory is still authentic    *)
(* and drops the cluster if not.                                               *)
Sound == Authentic(log, 0, row) /\ ~Banned(log, 0)

Sweep(r) ==
    LET db == Db(r) IN
    /\ "tamper" \in Events /\ r \notin looked /\ ~Sound
    /\ mem[r].view # None \/ mem[r].load = None
    /\ mem' = [mem EXCEPT ![r] =
          IF A6_sweep /\ ~(Authentic(db.log, db.cut, db.row) /\ ~Banned(db.log, db.cut))
          THEN Dropped(@) ELSE @]
    /\ UNCHANGED <<now, store, world>>

------------------------------- (* The log *) --------------------------------

(* One transaction writes the heartbeat and reads. Its answer may take long.   *)
(* With the checkpoint, the store has `applied` if it is the last entry that   *)
(* pruning removed; and if pruning went further, it has passed the replica.    *)
(* A page that is not whole ends before the newest entry.                      *)
PollBegins(r) ==
    LET m == mem[r]
        db == Db(r)
        passed == S11_checkpoint /\ m.applied[1] < db.cut
        known == /\ Has(db.log, m.applied) /\ m.applied[1] >= db.cut
                 /\ S11_checkpoint \/ db.cut = 0 \/ m.applied[1] > db.cut
                 /\ S1_own => Has(db.log, m.own)
        pages == {Len(db.log)} \cup
                 (IF "pages" \in Events /\ m.applied[1] + 1 < Len(db.log) THEN {m.applied[1] + 1}
                                                                         ELSE {})
    IN
    /\ m.poll = None /\ ~m.lost /\ ~m.anew
    /\ m.seen < now \/ ~known \/ Len(db.log) > m.applied[1] \/ beats[Name(r)].applied # m.applied[1]
    /\ S2 => pinned[r] = None
    /\ \E last \in pages :
          mem' = [mem EXCEPT ![r].poll =
             [began |-> now, lost |-> S1 /\ ~known /\ ~passed, passed |-> passed,
              entries |-> [n \in m.applied[1] + 1..last |-> db.log[n]], last |-> last,
              whole |-> last = Len(db.log), newest |-> Newest(db.log)]]
    /\ beats' = IF pinned[r] = None /\ ~passed /\ (S1 => known)
                THEN [beats EXCEPT ![Name(r)] =
                        [applied |-> IF R4 THEN m.applied[1] ELSE Len(log), at |-> now]]
                ELSE beats
    /\ UNCHANGED <<now, log, row, pruned, losses, pinned, mutations, accepted, world>>

RECURSIVE Applied(_, _, _)
Applied(r, m, poll) ==
    LET n == m.applied[1] + 1 IN
    IF n > poll.last THEN m
    ELSE LET entry == poll.entries[n]
             mine == IF S1_own THEN m.own = <<n, entry.id>> ELSE m.own[1] = n
             next == CASE entry.kind = "refused" ->
                            IF F2 /\ entry.by # r THEN DroppedRoot(m, entry.root) ELSE m
                       [] entry.kind \in {"attempt", "failed", "pruned", "reconciled"} -> m
                       [] entry.kind = "ban" /\ ~A6_obey -> m
                       [] OTHER -> IF mine THEN m ELSE Dropped(m)
         IN Applied(r, [next EXCEPT !.applied = <<n, entry.id>>,
                                    !.known = IF entry.kind = "reconciled"
                                              THEN @ \cup {<<n, entry.id>>} ELSE @,
                                    !.own = IF n < @[1] THEN @ ELSE <<0, 0>>], poll)

(* A change of this replica's own that it committed after the poll began has   *)
(* to be among the entries, too, if the poll has read its number.              *)
PollEnds(r) ==
    LET m == mem[r]
        read == m.own[1] \in m.applied[1] + 1..m.poll.last
        other == S1_own /\ read /\ m.poll.entries[m.own[1]].id # m.own[2]
        applied == Applied(r, m, m.poll)
    IN
    /\ m.poll # None
    /\ mem' = [mem EXCEPT ![r] =
          IF m.poll.lost \/ (~m.poll.passed /\ other)
          THEN [Dropped(m) EXCEPT !.lost = TRUE, !.poll = IF m.poll.lost THEN None ELSE @]
          ELSE IF m.poll.passed
          THEN [(IF S11_anew THEN Dropped(m) ELSE m) EXCEPT !.anew = TRUE, !.poll = None]
          ELSE [applied EXCEPT
                  !.poll = None,
                  !.applied = IF S0 THEN @ ELSE m.poll.newest,
                  !.seen = IF S3_whole /\ ~m.poll.whole THEN @
                           ELSE IF S3_began THEN m.poll.began ELSE now]]
    /\ UNCHANGED <<now, store, world>>

Reconciliations(db) == {Id(db, n) : n \in {k \in 1..Len(db) : db[k].kind = "reconciled"}}

(* Registers(m) goes on from what the store holds now.                         *)
Registers(m) == [m EXCEPT !.poll = None, !.applied = Newest(log), !.own = <<0, 0>>, !.seen = now,
                          !.known = Reconciliations(log)]
Registered(r) == beats' = [beats EXCEPT ![Name(r)] = [applied |-> Len(log), at |-> now]]

(* A replica that pruning passed registers.                                    *)
BeginsAnew(r) ==
    /\ mem[r].anew /\ pinned[r] = None
    /\ mem' = [mem EXCEPT ![r] = [Registers(@) EXCEPT !.anew = FALSE]]
    /\ Registered(r)
    /\ UNCHANGED <<now, log, row, pruned, losses, pinned, mutations, accepted, world>>

(* An operator says that the store is right as it is, whatever it has lost.    *)
Reconcile ==
    /\ "reconcile" \in Events /\ Len(log) < MaxLog /\ losses # <<>>
    /\ log' = Append(log, Entry("reconciled", None))
    /\ accepted' = Len(losses)
    /\ UNCHANGED <<now, row, pruned, losses, beats, pinned, mutations, world, mem>>

(* A replica that refuses looks at the newest reconciliation. `unasked`: what  *)
(* this replica misses was lost after the operator's last decision.            *)
GoesOn(r) ==
    LET m == mem[r]
        all == Reconciliations(log)
        last == CHOOSE id \in all : \A other \in all : other[1] <= id[1]
        missed == \E i \in accepted + 1..Len(losses) : losses[i] \in {m.applied, m.own}
    IN
    /\ m.lost /\ all # {} /\ (S1_unseen => last \notin m.known)
    /\ mem' = [mem EXCEPT ![r] = [Registers(@) EXCEPT !.lost = FALSE, !.unasked = missed]]
    /\ Registered(r)
    /\ UNCHANGED <<now, log, row, pruned, losses, pinned, mutations, accepted, world>>

(* Pruning removes the oldest entries but not the newest, and is an entry      *)
(* itself. It may come at any moment, as if the time for which entries are     *)
(* kept had passed. If the newest floor goes, its own entry carries it forward.*)
Prune ==
    /\ "prune" \in Events /\ Len(log) < MaxLog
    /\ \E last \in pruned + 1..Len(log) - 1 :
          LET going == FloorIn(log, pruned, last)
              keeps == /\ S10_kept /\ going # None
                       /\ S10_lock => Floors(log, last + 1, Len(log)) = {}
          IN
          /\ S11_live => \A r \in Replicas :
                now <= beats[Name(r)].at + Stale => last < beats[Name(r)].applied
          /\ pruned' = last
          /\ log' = Append(log, [Entry("pruned", None) EXCEPT
                                    !.floor = IF keeps THEN going.floor ELSE None,
                                    !.banned = keeps /\ A6_kept /\ going.banned,
                                    !.base = pruned])
    /\ UNCHANGED <<now, row, losses, beats, pinned, mutations, accepted, world, mem>>

(* A process dies, and another one registers and starts from what it reads.    *)
Restart(r) ==
    /\ "restart" \in Events /\ pinned[r] = None
    /\ LET kept == IF S4_start THEN Empty ELSE [mem[r] EXCEPT !.poll = None] IN
       mem' = [mem EXCEPT ![r] = [Registers(kept) EXCEPT !.own = kept.own]]
    /\ Registered(r)
    /\ UNCHANGED <<now, log, row, pruned, losses, pinned, mutations, accepted, world>>

------------------------------- (* Mutations *) ------------------------------

(* Whoever commits has read the head of the log, which names the newest        *)
(* reconciliation.                                                             *)
Commits(by) ==
    mem' = IF by # None /\ S1_sight
           THEN [mem EXCEPT ![by].known = @ \cup Reconciliations(log)] ELSE mem

RevokedRow(held) == [held EXCEPT !.enabled = FALSE,
                                 !.added = IF @ = "serves" THEN "revoked" ELSE @]

(* Revoke is for all regions. The store may take the entry and swallow the     *)
(* row's update, as a trigger in it could.                                     *)
RevokesRow(by) ==
    LET decided == [RevokedRow(row) EXCEPT !.version = NewId] IN
    \E swallowed \in {FALSE} \cup (IF "swallow" \in Events THEN {TRUE} ELSE {}) :
        /\ row' = IF swallowed THEN row ELSE decided
        /\ log' = Append(log, [Decision("revoke", by, decided) EXCEPT !.left = row'])

(* Where the row is not authentic, or gone, Revoke bans the cluster's name.    *)
(* Without that it fails, which only the invariants see in the log.            *)
Bans(by) ==
    /\ LET floor == IF Floor(log, pruned) = None THEN NewId ELSE Floor(log, pruned).floor
       IN log' = Append(log, IF A6_revoke
                             THEN [Entry("ban", by) EXCEPT !.floor = floor, !.banned = TRUE]
                             ELSE Entry("failed", by))
    /\ UNCHANGED row

Revoke ==
    /\ "revoke" \in Events /\ Len(log) < MaxLog /\ ~Banned(log, pruned)
    /\ \E by \in By : /\ IF Authentic(log, pruned, row) THEN RevokesRow(by) ELSE Bans(by)
                      /\ Commits(by)
    /\ UNCHANGED <<now, pruned, losses, beats, pinned, mutations, accepted, world>>

(* An entry that decides nothing.                                              *)
Attempt ==
    /\ "attempt" \in Events /\ Len(log) < MaxLog
    /\ log' = Append(log, Entry("attempt", None))
    /\ UNCHANGED <<now, row, pruned, losses, beats, pinned, mutations, accepted, world, mem>>

(* An operator seals a row that is not authentic as it stands, or brings it    *)
(* back from an export if it is gone.                                          *)
Seal ==
    /\ "seal" \in Events /\ Len(log) < MaxLog
    /\ Banned(log, pruned) \/ ~Authentic(log, pruned, row)
    /\ LET stands == [(IF row = None THEN First ELSE row) EXCEPT !.version = NewId]
           decided == IF A6_seal THEN RevokedRow(stands) ELSE stands
       IN /\ row' = decided
          /\ log' = Append(log, Decision("seal", None, decided))
    /\ UNCHANGED <<now, pruned, losses, beats, pinned, mutations, accepted, world, mem>>

(* Somebody who can write the store deletes the row, puts back one that it had *)
(* before, or spoils it, which only a seal tells from deleting it.             *)
Tamper ==
    /\ "tamper" \in Events
    /\ row' \in {None, First} \cup {log[n].left : n \in 1..Len(log)}
                \cup (IF "seal" \in Events /\ row # None
                      THEN {[row EXCEPT !.version = None, !.enabled = TRUE]} ELSE {})
    /\ row' # row
    /\ UNCHANGED <<now, log, pruned, losses, beats, pinned, mutations, accepted, world, mem>>

(* A replica applies its own change after the commit, ahead of the poll. A     *)
(* Revoke answers after that.                                                  *)
AppliesHere(r) ==
    \E n \in Floors(log, 1, Len(log)) :
        /\ log[n].by = r /\ n > mem[r].applied[1] /\ n > mem[r].own[1]
        /\ mem' = [mem EXCEPT ![r] = [Dropped(@) EXCEPT !.own = Id(log, n)]]
        /\ UNCHANGED <<now, store, world>>

(* Restore, Rotate and AddRegions read the row, prove their keys, and then     *)
(* read it again and commit.                                                   *)
Readable ==
    /\ Verifies(row)
    /\ S10_commit => Authentic(log, pruned, row)
    /\ A6_restore => ~Banned(log, pruned)

Proves(kind, decided, said) ==
    /\ Cardinality(mutations) < 2 /\ Len(log) < MaxLog
    /\ \A k \in {1, 2} : row.wraps[k] \in on \cup {0}
    /\ mutations' = mutations \cup
          {[kind |-> kind, version |-> row.version, base |-> Newest(log), decided |-> decided,
            said |-> said]}
    /\ UNCHANGED <<now, log, row, pruned, losses, beats, pinned, accepted, world, mem>>

RestoreBegins ==
    /\ "restore" \in Events /\ Readable /\ ~row.enabled
    /\ Proves("restore",
          [row EXCEPT !.enabled = TRUE, !.added = IF @ = "revoked" THEN "serves" ELSE @], FALSE)

RotateBegins ==
    /\ "rotate" \in Events /\ Readable /\ row.enabled /\ newest \in on
    /\ \E second \in {row.wraps[2], newest} :      \* newest: with new_generation
          Proves("rotate",
              [row EXCEPT !.wraps = <<newest, IF second = 0 THEN 0 ELSE newest>>], FALSE)

(* `said`: the request says that it means a cluster of which every region is   *)
(* revoked.                                                                    *)
AddBegins ==
    /\ "add" \in Events /\ Readable /\ row.added = "absent"
    /\ \E said \in BOOLEAN :
          /\ R10 => row.enabled \/ said
          /\ Proves("add", [row EXCEPT !.added = "serves"], said)

(* The decisions that the row has seen since the mutation read it.             *)
Overtaken(m) ==
    \/ ~Has(log, m.version) \/ ~Readable
    \/ \E n \in m.version[1] + 1..row.version[1] :
          \/ R1 /\ log[n].kind \in {"revoke", "seal"}
          \/ S5 /\ log[n].kind \in {"restore", "rotate", "add"}

MutationEnds ==
    \E m \in mutations :
        /\ mutations' = mutations \ {m}
        /\ IF Overtaken(m) THEN UNCHANGED <<log, row, mem>> ELSE
           LET decided == [m.decided EXCEPT !.version = NewId] IN
           /\ Len(log) < MaxLog
           /\ row' = decided
           /\ \E by \in By :
                /\ log' = Append(log, [Decision(m.kind, by, decided) EXCEPT
                                          !.base = IF Has(log, m.base) THEN m.base[1] ELSE 0,
                                          !.said = m.said])
                /\ Commits(by)
        /\ UNCHANGED <<now, pruned, losses, beats, pinned, accepted, world>>

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
    /\ pinned' = [pinned EXCEPT ![r] = IF @ = None THEN Db(r) ELSE None]
    /\ UNCHANGED <<now, log, row, pruned, losses, beats, mutations, accepted, world, mem>>

(* A standby that lags takes over, and the last transaction is lost.           *)
Failover ==
    /\ "failover" \in Events /\ log # <<>>
    /\ Len(losses) < IF "reconcile" \in Events THEN 2 ELSE 1
    /\ LET left == Len(log) - 1 IN
       /\ log' = SubSeq(log, 1, left)
       /\ row' = IF left = 0 THEN First ELSE log[left].left
       /\ pruned' = IF log[left + 1].kind = "pruned" THEN log[left + 1].base ELSE pruned
       /\ beats' = [r \in Replicas |->
                       [beats[r] EXCEPT !.applied = IF @ > left THEN left ELSE @]]
    /\ losses' = Append(losses, Newest(log))
    /\ UNCHANGED <<now, pinned, mutations, accepted, world, mem>>

Init ==
    /\ now = 0 /\ log = <<>> /\ row = First /\ pruned = 0 /\ losses = <<>> /\ mutations = {}
    /\ on = {1} /\ newest = 1 /\ accepted = 0 /\ looked = {}
    /\ beats = [r \in Replicas |-> [applied |-> 0, at |-> 0]]
    /\ pinned = [r \in Replicas |-> None]
    /\ mem = [r \in Replicas |-> Empty]

Step ==
    \/ Tick \/ Customer \/ NewKeyVersion \/ Failover \/ Prune \/ Tamper
    \/ Revoke \/ Attempt \/ Seal \/ Reconcile
    \/ RestoreBegins \/ RotateBegins \/ AddBegins \/ MutationEnds
    \/ \E r \in Replicas :
        \/ LoadBegins(r) \/ LoadEnds(r) \/ CannotTell(r) \/ Tell(r) \/ Wait(r)
        \/ PollBegins(r) \/ PollEnds(r) \/ BeginsAnew(r) \/ GoesOn(r) \/ AppliesHere(r)
        \/ Restart(r) \/ Pin(r)

Next ==
    \/ Step /\ looked' = IF looked # {} /\ Sound' THEN {} ELSE looked
    \/ \E r \in Replicas : Sweep(r) /\ looked' = looked \cup {r}

Spec == Init /\ [][Next]_vars
Symmetry == Permutations(Replicas)

------------------------------ (* Invariants *) ------------------------------

LastRevoke == LET all == {n \in 1..Len(log) : log[n].kind \in {"revoke", "ban", "failed"}}
              IN IF all = {} THEN 0 ELSE Max(all)

(* The operator's intention, whatever the row says: the cluster is revoked     *)
(* until a Restore that began after the last Revoke and, if that was a ban,    *)
(* after a seal of the row.                                                    *)
Revoked == /\ LastRevoke > 0
           /\ ~\E n \in LastRevoke + 1..Len(log) :
                  /\ log[n].kind = "restore" /\ log[n].base >= LastRevoke
                  /\ log[LastRevoke].kind = "ban" =>
                        \E k \in LastRevoke + 1..log[n].base : log[k].kind = "seal"

Confirmed(r) == \/ beats[Name(r)].applied >= LastRevoke
                \/ mem[r].own = Id(log, LastRevoke)

ConfirmedHasStopped ==
    Revoked => \A r \in Replicas : Confirmed(r) => InUse(r) = {}

(* A region that AddRegions brings into a revoked cluster serves only if a     *)
(* request that began after the last Revoke said so.                           *)
NoRegionAddedUnawares ==
    (Revoked /\ Verifies(row) /\ row.added = "serves") =>
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
(* what the replica had applied, committed or read.                            *)
PruningIsNoRollback ==
    \A r \in Replicas : mem[r].lost =>
        LET m == mem[r] IN
        \/ ~Has(log, m.applied) \/ ~Has(log, m.own)
        \/ m.poll # None /\ \E n \in DOMAIN m.poll.entries : ~Has(log, <<n, m.poll.entries[n].id>>)

(* A replica that knows of a loss serves again only if an operator decided     *)
(* after the loss.                                                             *)
OnlyAnOperatorReconciles == \A r \in Replicas : ~mem[r].unasked

(* The log has the floor of the last decision about the cluster, and the ban.  *)
PruningKeepsEveryFloor ==
    LET decisions == {n \in 1..Len(log) : log[n].floor # None /\ log[n].kind # "pruned"}
        last == IF decisions = {} THEN Made ELSE log[Max(decisions)]
        found == Floor(log, pruned)
    IN pruned > 0 => found # None /\ found.floor = last.floor /\ found.banned = last.banned

(* A replica uses no key of a row that somebody spoiled, deleted or put back   *)
(* once it has held its memory against the store.                              *)
NoUseOfSpoiledRows == \A r \in looked : Sound \/ InUse(r) = {}

(* A replica whose changes were pruned had been silent.                        *)
PruningPassesNoLiveReplica ==
    \A r \in Replicas : (mem[r].poll # None /\ mem[r].poll.passed) =>
        mem[r].poll.began > beats[Name(r)].at + Stale

ProvenInTime ==
    \A r \in Replicas : \A kek \in InUse(r) :
        now < kek.began + TTL + (IF kek.unknown THEN Grace ELSE 0)

NothingUnopenable ==
    \A n \in 1..Len(log) : \A k \in {1, 2} :
        (log[n].decided # None /\ log[n].decided.wraps[k] # 0 /\ Sound) => row.wraps[k] # 0

OldKeyNotNeeded ==
    \A n \in 1..Len(log) : (log[n].kind = "rotate" /\ Sound) =>
        \A k \in {1, 2} : row.wraps[k] = 0 \/ row.wraps[k] >= log[n].decided.wraps[1]
=============================================================================
