"""The columns that say which head or layer a row of a table is of."""

from diffmech.tables import text

HEAD = text("head: its site, then its number, e.g. down1.0.self.h03")
SITE = text("attention site (layer) of the head")
KIND = text("kind of attention: self, cross or joint")
