/* A small program.
 */

/*
 * A step is one d_step of a process: *_at says where the process stands.  A local is 0 where nobody
 * will read it.  A snapshot of a sequence is one bit, 1 as long as nothing has bumped the sequence.
 * The observer looks at every state once: a step from each state to itself.
 *
 *     spin -o1 -o2 -o3 -a MODEL.pml && gcc -O2 -DSAFETY -DNOREDUCE -o pan pan.c && ./pan -m9999999
 *
 * finds "states, stored" = our states and "transitions" = our steps + states + 1, or a claim that
 * is violated (`spin -t -p MODEL.pml` shows how).  With spin -DSETS it goes on, and prints each
 * claim that is violated, each mark that is reached and a deadlock once.
 */

#ifdef SETS
c_decl {
  static void once(int kind, int number) {
    static char seen[3][64];
    if (!seen[kind][number]) {
      seen[kind][number] = 1;
      printf("found %s %d\n", kind == 0 ? "claim" : kind == 1 ? "mark" : "deadlock", number);
    }
  }
}
#define CLAIM(number, holds) if :: !(holds) -> c_code { once(0, number); } :: else fi
#define MARK(number, text) c_code { once(1, number); }
#define DEADLOCK(found) if :: found -> c_code { once(2, 0); } :: else fi
#else
#define CLAIM(number, holds) assert(holds)
#define MARK(number, text) printf(text)
#define DEADLOCK(found) assert(!(found))
#endif

/* Marks:
 *    0 another time
 */

/* Claims:
 *    0 claim0
 */

#define Leaf_odd(v) ((((v) >> 0) & 1))
#define Leaf_set_odd(v, x) (((v) & ~1) | (((x)) << 0))
#define Leaf_n(v) ((((v) >> 1) & 3) + -1)
#define Leaf_set_n(v, x) (((v) & ~6) | (((x) - -1) << 1))
#define Leaf_item(v) ((((v) >> 3) & 3))
#define Leaf_set_item(v, x) (((v) & ~24) | (((x)) << 3))

/* The shared state. */
byte Item_lk[2]; /* Item.lk: who holds it (0: nobody) */
unsigned Box_lk : 3; /* Box.lk: who holds it (0: nobody) */
unsigned Box_rw : 3; /* Box.rw: who holds it (0: nobody) */
unsigned Box_rw_readers : 4; /* Box.rw: who holds it shared, a bit each */
unsigned Box_n : 2; /* Box.n */
unsigned Box_item : 2; /* Box.item */
unsigned Box_leaf : 5 = 2; /* Box.leaf */
byte Box_arr[2]; /* Box.arr */
unsigned Box_ghost : 2; /* Box.ghost, ghost */

/* p0: where it stands, and its locals. */
unsigned p0_at : 2;
bit p0_t;
hidden int p0_t_2;

/* p1: where it stands, and its locals. */
unsigned p1_at : 3;
unsigned p1_t : 2;

/* p2: where it stands, and its locals. */
unsigned p2_at : 3;
unsigned p2_t : 2;
hidden int p2_t_2;
hidden int p2_t_3;

/* p3: where it stands, and its locals. */
unsigned p3_at : 2;

/* p0; p0_at == 3: it has finished. */
active proctype p0() {
   do
   /* 0: the process starts */
   :: d_step { p0_at == 0 ->
      p0_t = 1;
      p0_at = 1;
   }
   /* 1: code.py:45 p0(): with spin_lock(host.box.lk): */
   :: d_step { p0_at == 1 && (Box_lk == 0) ->
      Box_lk = 1;
      if
      :: p0_t == 0 ->
         if
         :: Box_n < 3 ->
            p0_t_2 = Box_n + 1;
            assert(0 <= p0_t_2 && p0_t_2 <= 3);
            Box_n = p0_t_2;
            MARK(0, "another time\n");
         :: else
         fi;
      :: else
      fi;
      assert(Box_lk == 1);
      Box_lk = 0;
      p0_t = 0;
      p0_at = 2;
   }
   /* 2: code.py:49 p0(): host.box.item = None */
   :: d_step { p0_at == 2 ->
      Box_item = 0;
      p0_at = 3;
   }
   od
}

/* p1; p1_at == 5: it has finished. */
active proctype p1() {
   do
   /* 0: code.py:52 p1(): item = host.items[choose(2)] */
   :: d_step { p1_at == 0 ->
      p1_t = 0 + 1;
      p1_at = 1;
   }
   :: d_step { p1_at == 0 ->
      p1_t = 1 + 1;
      p1_at = 1;
   }
   /* 1: code.py:53 p1(): with spin_lock(host.box.lk): */
   :: d_step { p1_at == 1 && (Box_lk == 0) ->
      Box_lk = 2;
      Box_item = p1_t;
      Box_leaf = Leaf_set_item(6, p1_t);
      p1_t = 0;
      p1_at = 2;
   }
   /* 2: code.py:56 p1(): host.box.seq.bump() */
   :: d_step { p1_at == 2 ->
      p0_t = 0;
      assert(Box_lk == 2);
      Box_lk = 0;
      p1_at = 3;
   }
   /* 3: code.py:57 p1(): wait_until(host.box.n == 1 or host.box.item is None) */
   :: d_step { p1_at == 3 && ((Box_n == 1) || (Box_item == 0)) ->
      p1_at = 4;
   }
   /* 4: code.py:58 p1(): with read_lock(host.box.rw): */
   :: d_step { p1_at == 4 && (Box_rw == 0) ->
      Box_rw_readers = Box_rw_readers | 2;
      Box_leaf = Leaf_set_odd(Box_leaf, 1);
      Box_rw_readers = Box_rw_readers & 13;
      p1_at = 5;
   }
   od
}

/* p2; p2_at == 4: it has finished. */
active proctype p2() {
   do
   /* 0: code.py:62 p2(): with write_lock(host.box.rw): */
   :: d_step { p2_at == 0 && (Box_rw == 0 && Box_rw_readers == 0) ->
      Box_rw = 3;
      p2_at = 1;
   }
   /* 1: code.py:63 p2(): if trylock(item_of(host).lk): */
   :: d_step { p2_at == 1 ->
      p2_t_2 = Item_lk[0] == 0;
      Item_lk[0] = (p2_t_2 -> 3 : Item_lk[0]);
      if
      :: p2_t_2 ->
         p2_at = 2;
      :: else ->
         assert(Box_rw == 3);
         Box_rw = 0;
         p2_at = 4;
      fi;
   }
   /* 2: code.py:64 p2(): host.box.arr[host.box.n & 1] = min(host.box.n, 2) */
   :: d_step { p2_at == 2 ->
      p2_t = (Box_n < 2 -> Box_n : 2);
      p2_at = 3;
   }
   /* 3: code.py:64 p2(): host.box.arr[host.box.n & 1] = min(host.box.n, 2) */
   :: d_step { p2_at == 3 ->
      p2_t_3 = Box_n & 1;
      assert(0 <= p2_t_3 && p2_t_3 <= 1);
      Box_arr[p2_t_3] = p2_t;
      assert(Item_lk[0] == 3);
      Item_lk[0] = 0;
      assert(Box_rw == 3);
      Box_rw = 0;
      p2_t = 0;
      p2_at = 4;
   }
   od
}

/* p3; p3_at == 2: it has finished. */
active proctype p3() {
   do
   /* 0: code.py:71 p3(): with spin_lock(host.items[0].lk): */
   :: d_step { p3_at == 0 && (Item_lk[0] == 0) ->
      Item_lk[0] = 4;
      Box_ghost = 1;
      p3_at = 1;
   }
   /* 1: code.py:71 p3(): with spin_lock(host.items[0].lk): */
   :: d_step { p3_at == 1 ->
      assert(Item_lk[0] == 4);
      Item_lk[0] = 0;
      p3_at = 2;
   }
   od
}

/* What the observer computes with. */
hidden int claim0_t;
hidden int claim0_t_2;
hidden int waits[4];
hidden int ended, running, from, through, hopeless;

active proctype observer() {
   do
   :: d_step { true ->
      /* Deadlocks: a bit for each process. */
      ended = 0; running = 0; hopeless = 0;
      waits[0] = 0;
      if
      :: p0_at == 3 -> ended = ended | 1
      :: p0_at == 1 && !(Box_lk == 0) -> waits[0] = (Box_lk != 0 -> 1 << (Box_lk - 1) : 0)
      :: else -> running = 1
      fi;
      waits[1] = 0;
      if
      :: p1_at == 5 -> ended = ended | 2
      :: p1_at == 1 && !(Box_lk == 0) -> waits[1] = (Box_lk != 0 -> 1 << (Box_lk - 1) : 0)
      :: p1_at == 3 && !((Box_n == 1) || (Box_item == 0))
      :: p1_at == 4 && !(Box_rw == 0) -> waits[1] = (Box_rw != 0 -> 1 << (Box_rw - 1) : 0)
      :: else -> running = 1
      fi;
      waits[2] = 0;
      if
      :: p2_at == 4 -> ended = ended | 4
      :: p2_at == 0 && !(Box_rw == 0 && Box_rw_readers == 0) -> waits[2] = (Box_rw != 0 -> 1 << (Box_rw - 1) : 0) | Box_rw_readers
      :: else -> running = 1
      fi;
      waits[3] = 0;
      if
      :: p3_at == 2 -> ended = ended | 8
      :: p3_at == 0 && !(Item_lk[0] == 0) -> waits[3] = (Item_lk[0] != 0 -> 1 << (Item_lk[0] - 1) : 0)
      :: else -> running = 1
      fi;
      for (through : 0 .. 3) { for (from : 0 .. 3) {
         waits[from] = waits[from] | (((waits[from] >> through) & 1) * waits[through])
      } };
      for (from : 0 .. 3) {
         hopeless = hopeless | (waits[from] & (ended | (1 << from)))
      };
      DEADLOCK(hopeless || (!running && ended != 15));

      /* claim0 */
      if
      :: Box_lk == 0 && Box_rw == 0 && Box_rw_readers == 0 ->
         claim0_t = Box_leaf;
         claim0_t = Leaf_item(claim0_t);
         claim0_t = claim0_t == 1;
         if
         :: claim0_t ->
            claim0_t = Box_leaf;
            claim0_t = Leaf_n(claim0_t);
            claim0_t = claim0_t != 2;
            if
            :: claim0_t ->
               claim0_t_2 = 0;
            :: else ->
               goto claim_0_at2;
            fi;
         :: else ->
            goto claim_0_at2;
         fi;
         claim_0_at11: skip;
         CLAIM(0, claim0_t_2);
         goto claim_0_out;
         claim_0_at2: skip;
         claim0_t = Box_leaf;
         claim0_t = Leaf_item(claim0_t);
         claim0_t = claim0_t == 2;
         if
         :: claim0_t ->
            claim0_t = Box_leaf;
            claim0_t = Leaf_n(claim0_t);
            claim0_t = claim0_t != 2;
            if
            :: claim0_t ->
               claim0_t_2 = 0;
            :: else ->
               goto claim_0_at4;
            fi;
         :: else ->
            goto claim_0_at4;
         fi;
         goto claim_0_at11;
         claim_0_at4: skip;
         if
         :: Box_ghost == 0 ->
            goto claim_0_at7;
         :: else ->
            if
            :: Box_n < 3 ->
               goto claim_0_at7;
            :: else ->
               claim0_t = 0;
            fi;
         fi;
         claim_0_at8: skip;
         claim0_t_2 = claim0_t;
         goto claim_0_at11;
         claim_0_at7: skip;
         claim0_t = 1;
         goto claim_0_at8;
         claim_0_out: skip
      :: else
      fi;
   }
   od
}
