------------------------------- MODULE Refusals -----------------------------
(* Replicas use KEKs under one root key, and one of them at a time may be cut  *)
(* off from the KMS. The model shows how a refusal that a replica meets again  *)
(* reaches the others (protocol F2b), and what Keyfold's own limits mean for   *)
(* KEKs in use (F8). The store is healthy, and every replica reads it within   *)
(* the tick; Keyfold.tla has the rest. README.md says more.                    *)
EXTENDS Naturals, Sequences, FiniteSets, TLC

CONSTANTS
    Replicas, Keks, None,
    MaxTime, MaxTold,       \* bounds: ticks, and announcements
    TTL, Grace,             \* cache_ttl and outage_grace, in ticks
    Again,                  \* ticks between two announcements of repeated refusals
    Believed,               \* ticks for which one unanswered call is taken for an outage
    Events,                 \* the kinds of events that may happen in this run
    \* The safeguards. FALSE takes one away.
    F2b_again,              \* a replica tells a refusal that it meets again
    F2b_late,               \* it tells one that comes too early when its turn comes
    F2b_root,               \* it tells one of the root key if it has no other KEK in memory
    F2b_prove,              \* else it first proves another KEK
    F2b_doubt,              \* it tells one of the root key if it gets no answer about that KEK
    F2b_named,              \* it names the refused KEK alone if the other KEK opens
    F8_grace,               \* a call that Keyfold's limits held up gives no grace
    F8_reserve              \* no other call uses up what proofs of KEKs in use need

VARIABLES
    now,        \* one clock
    on,         \* whether the customer's KMS accepts the root key
    condemned,  \* KEKs that the customer's policy refuses by their context
    cut,        \* the replica that cannot reach the KMS, if any
    left,       \* what the limits leave: for "all" calls, for "proofs" alone, or for "none"
    told,       \* number of announcements
    news,       \* each replica's announcements that it has not read yet
    mem,        \* each replica's memory
    held        \* a limit held up a proof although there was a reserve for it

vars == <<now, on, condemned, cut, left, told, news, mem, held>>

(* `unknown` is the time until which an outage is believed. Only invariants    *)
(* use `asked`, the time of the last call that the KMS left unanswered, and    *)
(* `due`, the time by which the replica must have heard of a refusal.          *)
Empty == [open |-> {}, proof |-> 0, unknown |-> 0, refused |-> {}, announced |-> FALSE,
          last |-> None, waiting |-> {}, asked |-> None, due |-> None]

(* The KEKs with which the replica can answer a call at this moment.           *)
InUse(r) ==
    LET m == mem[r] IN
    IF \/ now < m.proof + TTL
       \/ now < m.unknown /\ now < m.proof + TTL + Grace
    THEN m.open ELSE {}

(* drop_root                                                                   *)
Dropped(m) == [m EXCEPT !.open = {}, !.proof = 0, !.unknown = 0, !.asked = None, !.due = None]

Proven(m, k) == [m EXCEPT !.open = @ \cup {k}, !.proof = now, !.unknown = 0, !.asked = None,
                          !.refused = @ \ {k}, !.announced = FALSE, !.due = None]

Silent(m) == IF m.open = {} THEN m ELSE [m EXCEPT !.unknown = now + Believed, !.asked = now]

(* The KMS refuses the root key, so every replica that has a KEK open must     *)
(* hear of it within the time between two announcements.                       *)
Hears(m) == IF ~on /\ m.open # {} /\ m.due = None THEN [m EXCEPT !.due = now + Again] ELSE m

(* Tells the others. None stands for the root key. Only an invariant uses      *)
(* `works`: the teller knows that the root key opens other KEKs.               *)
Tells(r, k, works) ==
    /\ told < MaxTold
    /\ told' = told + 1
    /\ news' = [x \in Replicas |-> IF x = r THEN news[x]
                                   ELSE Append(news[x], [kek |-> k, works |-> works])]

TellsNobody == UNCHANGED <<told, news>>

(* A replica's own memory after it told.                                       *)
Told(m, k) == [m EXCEPT !.last = now, !.waiting = IF k = None THEN {} ELSE @ \ {k}]

Early(m) == m.last # None /\ now < m.last + Again

----------------------------- (* Calls to the KMS *) -------------------------

(* A KEK's first refusal drops every KEK under the root key.                   *)
Refused(r, k) ==
    LET m == mem[r]
        again == k \in m.refused \/ m.announced
        waits == again /\ F2b_again /\ (F2b_late \/ ~Early(m))
        kept == [m EXCEPT !.open = @ \ {k}, !.refused = @ \cup {k},
                          !.waiting = IF waits THEN @ \cup {k} ELSE @]
        after == IF k \in m.refused THEN kept ELSE Dropped(kept)
    IN
    /\ IF again THEN TellsNobody ELSE Tells(r, None, FALSE)
    /\ mem' = [x \in Replicas |->
          IF x # r THEN Hears(mem[x])
          ELSE IF again THEN after ELSE Told([after EXCEPT !.announced = TRUE], None)]

(* A call or a refresh asks about a KEK. The KMS decides at once.              *)
Asks(r, k) ==
    LET m == mem[r]
        proof == k \in m.open
    IN
    IF left = "all" \/ (proof /\ left = "proofs" /\ F8_reserve)
    THEN /\ UNCHANGED held
         /\ IF r \in cut
            THEN mem' = [mem EXCEPT ![r] = Silent(m)] /\ TellsNobody
            ELSE IF on /\ k \notin condemned
            THEN mem' = [mem EXCEPT ![r] = Proven(m, k)] /\ TellsNobody
            ELSE Refused(r, k)
    ELSE /\ held' = (held \/ (proof /\ left = "proofs"))
         /\ mem' = [mem EXCEPT ![r].unknown = IF F8_grace \/ ~proof THEN @ ELSE now + Believed]
         /\ TellsNobody

Call(r, k) == Asks(r, k) /\ UNCHANGED <<now, on, condemned, cut, left>>

----------------------------- (* Announcements *) ----------------------------

(* A repeated refusal has its turn. The other KEK's refusal is a first one.    *)
Turn(r) ==
    LET m == mem[r] IN
    /\ m.waiting # {} /\ ~Early(m)
    /\ \E k \in m.waiting :
          IF m.open = {}
          THEN LET what == IF F2b_root THEN None ELSE k IN
               Tells(r, what, FALSE) /\ mem' = [mem EXCEPT ![r] = Told(m, what)]
          ELSE \E other \in m.open :
               IF ~F2b_prove
               THEN Tells(r, k, FALSE) /\ mem' = [mem EXCEPT ![r] = Told(m, k)]
               ELSE IF r \notin cut /\ on /\ other \notin condemned
               THEN LET what == IF F2b_named THEN k ELSE None IN
                    /\ Tells(r, what, TRUE)
                    /\ mem' = [mem EXCEPT ![r] = Told(Proven(m, other), what)]
               ELSE IF r \in cut /\ ~F2b_doubt
               THEN Tells(r, k, FALSE) /\ mem' = [mem EXCEPT ![r] = Told(Silent(m), k)]
               ELSE LET after == [Dropped(m) EXCEPT
                            !.refused = IF r \in cut THEN @ ELSE @ \cup {other},
                            !.announced = IF r \in cut THEN @ ELSE TRUE]
                    IN Tells(r, None, FALSE) /\ mem' = [mem EXCEPT ![r] = Told(after, None)]
    /\ UNCHANGED <<now, on, condemned, cut, left, held>>

(* root_refused                                                                *)
Reads(r) ==
    LET k == Head(news[r]).kek IN
    /\ news[r] # <<>>
    /\ news' = [news EXCEPT ![r] = Tail(@)]
    /\ mem' = [mem EXCEPT ![r] = IF k = None \/ k \in @.open THEN Dropped(@) ELSE @]
    /\ UNCHANGED <<now, on, condemned, cut, left, told, held>>

------------------------- (* The world around it *) --------------------------

(* The timers and polls of a replica that runs are not late by a tick. A tick  *)
(* forgets times that decide nothing any more, which only saves states.        *)
Urgent == \E r \in Replicas :
              news[r] # <<>> \/ (mem[r].waiting # {} /\ ~Early(mem[r]))

Tick ==
    /\ now < MaxTime /\ ~Urgent
    /\ now' = now + 1
    /\ mem' = [r \in Replicas |->
          LET m == mem[r] IN
          [m EXCEPT !.last = IF @ # None /\ now' < @ + Again THEN @ ELSE None,
                    !.unknown = IF now' < @ THEN @ ELSE 0,
                    !.asked = IF @ # None /\ now' < @ + Believed THEN @ ELSE None]]
    /\ UNCHANGED <<on, condemned, cut, left, told, news, held>>

(* A key that is enabled again may be used.                                    *)
Customer ==
    /\ "refusal" \in Events
    /\ on' = ~on
    /\ mem' = IF on THEN mem ELSE [r \in Replicas |-> [mem[r] EXCEPT !.due = None]]
    /\ UNCHANGED <<now, condemned, cut, left, told, news, held>>

Condemns(k) ==
    /\ "context" \in Events /\ condemned = {}
    /\ condemned' = {k}
    /\ UNCHANGED <<now, on, cut, left, told, news, mem, held>>

Network(r) ==
    /\ "outage" \in Events
    /\ cut' = IF r \in cut THEN {} ELSE {r}
    /\ UNCHANGED <<now, on, condemned, left, told, news, mem, held>>

Neighbours ==
    /\ "busy" \in Events
    /\ left' \in {"all", "proofs", "none"}
    /\ UNCHANGED <<now, on, condemned, cut, told, news, mem, held>>

Init ==
    /\ now = 0 /\ on = TRUE /\ condemned = {} /\ cut = {} /\ left = "all" /\ told = 0
    /\ news = [r \in Replicas |-> <<>>] /\ mem = [r \in Replicas |-> Empty] /\ held = FALSE

Next ==
    \/ Tick \/ Customer \/ Neighbours
    \/ \E k \in Keks : Condemns(k)
    \/ \E r \in Replicas :
        Turn(r) \/ Reads(r) \/ Network(r) \/ \E k \in Keks : Call(r, k)

Spec == Init /\ [][Next]_vars
Symmetry == Permutations(Replicas) \cup Permutations(Keks)

------------------------------ (* Invariants *) ------------------------------

RefusalsReachAll ==
    \A r \in Replicas : mem[r].due # None /\ InUse(r) # {} => now <= mem[r].due

(* A KEK's own refusal does not drop others where the root key is known to     *)
(* open other KEKs, and the replica has not opened the refused one.            *)
NeighboursServeOn ==
    \A r \in Replicas : \A i \in DOMAIN news[r] : news[r][i].works => news[r][i].kek # None

GraceNeedsAnOutage ==
    \A r \in Replicas : InUse(r) # {} /\ now >= mem[r].proof + TTL =>
        mem[r].asked # None /\ now < mem[r].asked + Believed

ProofsAreNotHeldUp == ~held
=============================================================================
