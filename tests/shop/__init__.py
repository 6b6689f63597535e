"""An application on Django: cards and tickets of accounts, with encrypted fields.

`shop.setup` sets Django up; import it before `shop.models`.
"""
