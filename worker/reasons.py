"""The reasons for which the service rejects jobs, in addition to those that every application has."""

from tidepool import Reason


class ShopReason(Reason):
    """Why the service rejects a job. Each reason has a code for programs and a sentence for people."""

    USERNAME_TAKEN = "username_taken", "another user has this username"
    EMAIL_TAKEN = "email_taken", "another user has this email"
    SKU_TAKEN = "sku_taken", "another product has this sku"
    UNKNOWN_USER = "unknown_user", "there is no such user"
    UNKNOWN_PRODUCT = "unknown_product", "there is no such product"
    OUT_OF_STOCK = "out_of_stock", "the product is out of stock"
    INACTIVE_USER = "inactive_user", "the user is not active"
